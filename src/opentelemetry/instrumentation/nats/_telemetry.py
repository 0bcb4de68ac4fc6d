# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""An operation's span, metrics and errors, in one place.

A patched method asks for an operation, runs nats-py's own code, and ends the operation:

- `start_send` starts a span before the call, because its context travels in the message;
- an `Observation` makes it when the call is over (with the time at which it began), because only the answer tells the
  message, the links, or that there is nothing to tell;
- `start_process` makes the span of a handler or loop body, and the context that is current in it.

Nothing here raises into a user's program, see `_faults`.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Sequence
from time import perf_counter_ns, time_ns
from typing import Any, NamedTuple

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context, attach, get_current
from opentelemetry.instrumentation.nats import _attributes as names
from opentelemetry.instrumentation.nats import _faults
from opentelemetry.instrumentation.nats._attributes import (
    MESSAGE_ID_HEADER,
    AckSubject,
    Attributes,
    captured_headers,
    header,
    parse_ack_subject,
)
from opentelemetry.instrumentation.nats._calls import Call, outside
from opentelemetry.instrumentation.nats._connection import (
    NO_CLIENT,
    PROCESS,
    RECEIVE,
    SOURCE,
    Channel,
    Connection,
    Destination,
    Operation,
    Source,
    is_client,
)
from opentelemetry.instrumentation.nats._metrics import Metrics
from opentelemetry.instrumentation.nats._options import Options, OutgoingMessage
from opentelemetry.instrumentation.nats._propagation import Propagation, extract, span_context, write_context
from opentelemetry.instrumentation.nats._subjects import carries_context, reduce_subject
from opentelemetry.instrumentation.nats.version import __version__
from opentelemetry.metrics import MeterProvider
from opentelemetry.metrics import _internal as _metrics_internal
from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import INVALID_SPAN, Link, NonRecordingSpan, Span, SpanContext, SpanKind, TracerProvider
from opentelemetry.trace.status import Status, StatusCode

SCHEMA_URL = Schemas.V1_44_0.value

DELIVERY = "_opentelemetry_delivery"
"""The attribute of a message (or KV entry, or object's info) that keeps its `Delivery`."""

# Subjects without a template that get names of their own. A program with more of them is naming its subjects after
# ids of a kind that no rule knows; from there on the spans are named after the operation alone.
MOST_LABELS = 1000

_CONNECTION = "_opentelemetry_connection"

# Where the reply subject of the message being handled is kept, when nothing about it says that it is an inbox.
_HANDLED_REPLY = context_api.create_key("nats-handled-reply")

# Where a context that `next_msg()` made current keeps what was current before, with the option `activate_next_msg`.
_ACTIVATION = context_api.create_key("nats-activation")

_SUPPRESSED = context_api._SUPPRESS_INSTRUMENTATION_KEY  # pyright: ignore[reportPrivateUsage] (no public reader is as cheap)
_SUPPRESSED_PLAIN = "suppress_instrumentation"

_NO_CONTEXT = Context()

# Where the API keeps the global providers, None until there are any; its public getters cost 1 us until then.
_TRACING, _METRICS = vars(trace), vars(_metrics_internal)

_DESTINATION = messaging.MESSAGING_DESTINATION_NAME
_BODY_SIZE = messaging.MESSAGING_MESSAGE_BODY_SIZE
_MESSAGE_ID = messaging.MESSAGING_MESSAGE_ID
_SUBSCRIPTION = messaging.MESSAGING_DESTINATION_SUBSCRIPTION_NAME

# A cancelled operation did not fail. Neither did a coroutine that its owner closed.
_CANCELLED = (CancelledError, GeneratorExit)


class _Activation(NamedTuple):
    """A context that `next_msg()` has left current.

    Attributes:
        before: The context from before.
        span: The span that was made current.
    """

    before: Context
    span: Span


class Failure(NamedTuple):
    """What an exception means to telemetry.

    Attributes:
        error_type: `error.type`.
        expected: Whether it is an outcome that the protocol provides for: no stack trace is recorded.
        description: The span status's description.
    """

    error_type: str
    expected: bool
    description: str


def suppressed(context: Context) -> bool:
    """Tells whether `suppress_instrumentation()` is in effect."""
    return bool(context) and bool(context.get(_SUPPRESSED) or context.get(_SUPPRESSED_PLAIN))


def restore(ours: Context, previous: Context) -> None:
    """Makes `previous` current again, if `ours` still is.

    Not by token: an iterator may be finalized in another context than the one where it was stepped.
    """
    if get_current() is ours:
        attach(previous)


def handled_reply(context: Context) -> str | None:
    """Returns the reply subject of the message being handled, where nothing about it says that it is an inbox."""
    reply = context.get(_HANDLED_REPLY)
    return reply if isinstance(reply, str) else None


def delivery_of(message: Any) -> Delivery | None:
    """Returns what we know of a message that was handed to the application."""
    return getattr(message, DELIVERY, None)


class Telemetry:
    """All that belongs to one `instrument()` call.

    Args:
        tracer_provider: The provider; None for the global one, which may be set later.
        meter_provider: The same for metrics.
        options: The options.
        classify: Says what an exception means; raised by nats-py, it has to be a module that imports it.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        options: Options,
        classify: Callable[[BaseException], Failure],
    ) -> None:
        self.enabled = True
        self.options = options
        self._captures_headers = bool(options.headers)
        self.excludes = bool(options.excluded_subjects)
        self.carries_context: Callable[[str], bool] = (
            self._may_carry_context if options.propagation_excluded_subjects else carries_context
        )
        """Tells whether messages on a subject may be given trace headers."""
        self.classify = classify
        self.propagation = Propagation()
        self.metrics = Metrics(meter_provider, __version__, SCHEMA_URL)
        self.tracer = trace.get_tracer(
            "opentelemetry.instrumentation.nats", __version__, tracer_provider, schema_url=SCHEMA_URL
        )
        self._tracing = not isinstance(self.tracer, trace.ProxyTracer | trace.NoOpTracer)
        self._tracing_later = isinstance(self.tracer, trace.ProxyTracer)
        self.listening = self._tracing or self.metrics.on
        self._labels: set[str] = set()
        self._no_connection: Connection | None = None

    def idle(self) -> bool:
        """Tells whether nobody listens: no tracer or meter provider is set (yet), or we are uninstrumented."""
        if self.listening:
            return False
        no_tracing = _TRACING.get("_TRACER_PROVIDER", True) is None
        if not self.enabled or (no_tracing and _METRICS.get("_METER_PROVIDER", True) is None):
            return True
        if self._tracing_later and not no_tracing:  # set after us
            self.tracer = trace.get_tracer("opentelemetry.instrumentation.nats", __version__, schema_url=SCHEMA_URL)
            self._tracing = not isinstance(self.tracer, trace.NoOpTracer)
            self._tracing_later = False
        self.listening = self.metrics.resolve() or self._tracing
        return not self.listening

    def silence(self) -> None:
        """Stops for good: what still lives of us (subscriptions, loops, captured methods) does nothing from now on."""
        self.enabled = False
        self.listening = False
        self.metrics.stop()

    # -- subjects -----------------------------------------------------------------------------------------------------

    def template(self, subject: str, pattern: str | None) -> str | None:
        """Returns the low-cardinality form of a subject: the user's, the subscription's, or ours; None without one."""
        return self.options.subject_templates.find(subject) or pattern or reduce_subject(subject)

    def label(self, destination: Destination) -> str | None:
        """Returns what stands for a destination in span names and metrics; None when there have been too many."""
        label = destination.template or destination.name
        if label in self._labels:
            return label
        if len(self._labels) >= MOST_LABELS:
            return None
        self._labels.add(label)
        return label

    def is_excluded(self, subject: str) -> bool:
        """Tells whether the user wants no spans and no metrics of a subject."""
        return self.excludes and self.options.excluded_subjects.find(subject) is not None

    def _may_carry_context(self, subject: str) -> bool:
        return carries_context(subject) and self.options.propagation_excluded_subjects.find(subject) is None

    def connection(self, client: Any) -> Connection:
        """Returns what we know of a client's connection; of a fake, in a program's own tests, that is nothing."""
        try:
            connection: Connection | None = client.__dict__.get(_CONNECTION)
            if connection is None or connection.telemetry is not self:
                connection = Connection(self, client, counted=connection is not None)
                client.__dict__[_CONNECTION] = connection
            return connection
        except Exception:
            if is_client(client):
                _faults.report("reading the state of a connection")
        if self._no_connection is None:
            self._no_connection = Connection(self, NO_CLIENT)
        return self._no_connection

    def channel(self, client: Any, operation: Operation, name: str | None, *, resource: bool = False) -> Channel:
        """Returns the channel of an operation through a client's connection, see `Connection.channel`."""
        try:
            connection: Connection = client.__dict__[_CONNECTION]
            if connection.telemetry is self:
                return connection.channels[operation, name]
        except (AttributeError, KeyError):
            pass
        return self.connection(client).channel(operation, name, resource=resource)

    def source(self, subscription: Any) -> Source:
        """Returns where a subscription's messages come from."""
        source: Source | None = subscription.__dict__.get(SOURCE)
        if source is not None and source.connection.telemetry is self:
            return source
        return self.connection(subscription._conn).source(subscription)

    def source_of(self, message: Any) -> Source:
        """Makes a source for a `Msg` that came through a subscription from before our time."""
        return Source(self.connection(message._client), message.subject)

    # -- sending ------------------------------------------------------------------------------------------------------

    def start_send(
        self, channel: Channel, attributes: Attributes, parent: Context, headers: Any = None, payload: Any = None
    ) -> ActiveOperation:
        """Starts the span of an operation that sends a message.

        Args:
            channel: What is sent where.
            attributes: The span's, to be added to.
            parent: The context that holds the parent.
            headers: The headers that the caller gave, of any type.
            payload: The payload; None where it is not known.

        Returns:
            The operation; its `context` is what the message carries.
        """
        if payload is not None:
            try:
                attributes[_BODY_SIZE] = len(payload)
            except TypeError:
                pass  # nats-py is about to refuse it
        kind, links = channel.kind, None
        if headers:
            try:
                chosen = self._read_outgoing_headers(headers, parent, attributes)
            except Exception:
                _faults.report("reading the headers of an outgoing message")
            else:
                if chosen is not None:
                    kind, links = SpanKind.CLIENT, (Link(chosen),)
        try:
            span = self.tracer.start_span(channel.span_name, parent, kind, attributes, links)
        except Exception:  # of a sampler, an id generator, a span processor
            _faults.report("starting a span")
            span = INVALID_SPAN
        operation = ActiveOperation(channel, span, trace.set_span_in_context(span, parent))
        if links is not None or not channel.carries_context:
            operation.injects = False
        return operation

    def _read_outgoing_headers(self, headers: Any, parent: Context, attributes: Attributes) -> SpanContext | None:
        if self._captures_headers:
            try:
                attributes.update(captured_headers(self.options.headers, self.propagation.fields(), headers))
            except AttributeError:
                return None  # no headers at all: nats-py is about to say so
        message_id = header(headers, MESSAGE_ID_HEADER) if hasattr(headers, "get") else None
        if message_id is not None:
            attributes[messaging.MESSAGING_MESSAGE_ID] = message_id
        return self.propagation.chosen(headers, parent)

    def inject(self, connection: Connection, context: Context, size: int, headers: Any) -> Any:
        """Builds the headers of a message that carries a context.

        Args:
            connection: The connection that the message goes through.
            context: The context.
            size: Size of the payload in bytes.
            headers: The headers that the caller gave, of any type; never changed.

        Returns:
            What to give to nats-py as headers.
        """
        try:
            if headers is None and size <= connection.ample:
                return write_context(context) or None
            if not connection.supports_headers:
                return headers
            # The server counts headers, nats-py does not: past the limit the server closes the connection.
            return self.propagation.inject(headers, context, connection.max_payload - size)
        except Exception:
            _faults.report("writing the context of a message")
            return headers

    def show(self, operation: ActiveOperation, subject: str, reply: str, headers: Any, size: int | None) -> None:
        """Shows a message on its way out to the user's hook.

        Args:
            operation: The operation that sends it.
            subject: Its subject.
            reply: Its reply subject.
            headers: Its headers as they are sent.
            size: Size of its payload in bytes.
        """
        hook = self.options.publish_hook
        if hook is not None and operation.span.is_recording():
            message = OutgoingMessage(subject, reply, headers, size)
            self._run_hook("the publish hook", hook, operation.span, operation.context, message)

    # -- receiving ----------------------------------------------------------------------------------------------------

    def deliver(self, message: Any, source: Source, base: Context) -> tuple[Delivery, Context]:
        """Reads the creation context of a message on its way to the application, and remembers it.

        Args:
            message: What the application gets.
            source: Where it came from.
            base: What the creation context is added to; it holds no valid span.

        Returns:
            The delivery, which is now also kept on the message, and the creation context with its baggage.
        """
        delivery: Delivery | None = getattr(message, DELIVERY, None)
        if source.bucket:
            # An object's info has headers of its own, which are not those of the message that it was made of.
            headers = None if delivery is None else delivery.headers
        else:
            headers = message.headers
        try:
            context = extract(headers, base)
        except Exception:
            _faults.report("reading the context of a message")
            context = base
        if delivery is None:
            creation = None if context is base else span_context(context)
            if creation is not None:
                self.propagation.remember(creation.span_id)
            delivery = Delivery(source, creation)
            try:
                setattr(message, DELIVERY, delivery)
            except AttributeError:
                pass  # a message class of the user's with slots: acknowledging it falls back to its headers
        return delivery, context

    def start_process(
        self,
        source: Source,
        message: Any,
        ambient: Context | None = None,
        attributes: Attributes | None = None,
        counts: bool = True,
    ) -> Delivery | None:
        """Starts the span of a handler or loop body.

        Args:
            source: Where the message came from.
            message: The message, or KV entry, or object's info.
            ambient: The context that is current around the loop; None for a callback, whose surroundings are those
                of its `subscribe()` and have nothing to do with the message.
            attributes: What the span has besides, for what is no `Msg`.
            counts: Whether this is what hands the message to the application, rather than a receive before.

        Returns:
            The delivery, whose `context` is to be current while the message is processed; None after a fault.
        """
        try:
            nested = span_context(ambient) is not None if ambient else False
            delivery, context = self.deliver(message, source, ambient if ambient and not nested else _NO_CONTEXT)
            if ambient and nested:
                context = ambient
            if delivery.source is None:
                delivery.source = source
            if attributes is None:
                channel = source.channel(PROCESS, message.subject)
                all_attributes = channel.attributes.copy()
                ack = self.message_attributes(all_attributes, message)
            else:
                channel = source.channel(PROCESS, source.subject)
                all_attributes = {**channel.attributes, **attributes}
                ack = None
            if channel.excluded:
                delivery.begin(channel, INVALID_SPAN, context)
                return delivery
            creation = delivery.creation
            span = self.tracer.start_span(
                channel.span_name,
                _NO_CONTEXT if self.options.use_span_links else context,
                channel.kind,
                all_attributes,
                None if creation is None else (Link(creation),),
            )
            context = trace.set_span_in_context(span, context)
            if counts:
                channel.series.count += 1
                if ack is not None:
                    self.count_deliveries(source, (ack,), context)
            if ack is None and attributes is None and message.reply and not source.connection.is_inbox(message.reply):
                # The requester's inbox prefix is not ours: only this tells that a publish to it is the reply.
                context = context_api.set_value(_HANDLED_REPLY, message.reply, context)
            delivery.begin(channel, span, context)
            if self.options.consume_hook is not None:
                self.run_consume_hook(span, context, (message,))
            return delivery
        except Exception:
            _faults.report("starting a process span")
            return None

    def message_attributes(self, attributes: Attributes, message: Any) -> AckSubject | None:
        """Adds what only this `Msg` has to the attributes of its process, receive or settle span, or of a link to it.

        Returns:
            What its acknowledgement subject says, if it is a JetStream message.
        """
        attributes[_DESTINATION] = message.subject
        attributes[_BODY_SIZE] = len(message.data)
        headers = message.headers
        message_id = header(headers, MESSAGE_ID_HEADER) if headers and MESSAGE_ID_HEADER in headers else None
        reply = message.reply
        ack = None
        if reply:
            ack = parse_ack_subject(reply)
            if ack is None:
                attributes[messaging.MESSAGING_MESSAGE_CONVERSATION_ID] = reply
            else:
                stream, consumer, count, sequence, consumer_sequence, _, pending, _ = ack
                message_id = message_id or f"{stream}:{sequence}"
                attributes[_SUBSCRIPTION] = consumer
                attributes[names.JETSTREAM_STREAM] = stream
                attributes[names.JETSTREAM_CONSUMER] = consumer
                attributes[names.JETSTREAM_SEQUENCE] = sequence
                attributes[names.JETSTREAM_CONSUMER_SEQUENCE] = consumer_sequence
                attributes[names.JETSTREAM_DELIVERY_COUNT] = count
                attributes[names.JETSTREAM_PENDING] = pending
        if message_id is not None:
            attributes[_MESSAGE_ID] = message_id
        if self._captures_headers and headers:
            attributes.update(captured_headers(self.options.headers, self.propagation.fields(), headers))
        return ack

    def count_deliveries(self, source: Source, acks: Sequence[AckSubject], context: Context) -> None:
        """Records the delivery of JetStream messages to the application.

        Args:
            source: Where they came from.
            acks: What their acknowledgement subjects say.
            context: The context with the span that they are delivered in.
        """
        metrics = self.metrics
        if not (metrics.on or metrics.resolve()):
            return
        record = metrics.delivery_latency.record
        now = time_ns()
        for stream, _, count, _, _, timestamp, pending, _ in acks:
            series = source.connection.jetstream_series(stream, source.consumer)
            try:
                record(max(0, now - timestamp) / 1e9, series.attributes, context)
            except Exception:
                _faults.report("recording a delivery")
            if count > 1:
                series.redeliveries += 1
            if source.consumer:
                series.pending = pending
                series.seen_at = now

    def received(
        self,
        source: Source,
        message: Any,
        ambient: Context,
        started: int,
        started_at: int,
        attributes: Attributes | None = None,
    ) -> None:
        """Makes the span of a receive of one message.

        Args:
            source: Where the message came from.
            message: The message, or KV entry, or object's info.
            ambient: The context that the receive was called in.
            started: When that was, on the clock of `perf_counter_ns`.
            started_at: The same in nanoseconds since the epoch.
            attributes: What the span has besides, for what is no `Msg`.
        """
        try:
            nested = span_context(ambient) is not None if ambient else False
            delivery, context = self.deliver(message, source, _NO_CONTEXT if nested else ambient)
            if attributes is None:
                channel = source.channel(RECEIVE, message.subject)
                all_attributes = channel.attributes.copy()
                ack = self.message_attributes(all_attributes, message)
            else:
                channel = source.channel(RECEIVE, source.subject)
                all_attributes = {**channel.attributes, **attributes}
                ack = None
            if channel.excluded:
                return
            channel.series.count += 1
            if nested:
                context = ambient
            creation = delivery.creation
            links = () if creation is None else (Link(creation),)
            span = self.observed(channel, all_attributes, links, context, started, started_at, None, (message,))
            delivery.span_context = span.get_span_context()
            if ack is not None:
                self.count_deliveries(source, (ack,), trace.set_span_in_context(span, context))
            if self.options.activate_next_msg and not nested:
                context = trace.set_span_in_context(span, context)
                attach(context_api.set_value(_ACTIVATION, _Activation(ambient, span), context))
        except Exception:
            _faults.report("recording a receive")

    def received_batch(self, observation: Observation, source: Source, messages: Sequence[Any]) -> None:
        """Ends the receive of several messages."""
        try:
            channel = source.channel(RECEIVE, source.subject)
            if channel.excluded:
                return
            links: list[Link] = []
            untraced: list[Delivery] = []
            acks: list[AckSubject] = []
            for message in messages:
                delivery, _ = self.deliver(message, source, _NO_CONTEXT)
                of_message: Attributes = {}
                ack = self.message_attributes(of_message, message)
                if ack is not None:
                    acks.append(ack)
                if delivery.creation is None:
                    untraced.append(delivery)
                else:
                    links.append(Link(delivery.creation, of_message))
            channel.series.count += len(messages)
            attributes = channel.attributes.copy()
            attributes[messaging.MESSAGING_BATCH_MESSAGE_COUNT] = len(messages)
            span = observation.end(channel, attributes, links, messages=messages)
            if acks:
                self.count_deliveries(source, acks, trace.set_span_in_context(span, observation.parent))
            # The batch's span is in no message's trace; only a message without one has nothing better.
            for delivery in untraced:
                delivery.span_context = span.get_span_context()
        except Exception:
            _faults.report("recording a receive")

    def before_receive(self) -> Context:
        """Returns the context that a receive is called in, after putting back what `activate_next_msg` replaced."""
        context = get_current()
        if not context or not self.options.activate_next_msg:
            return context
        activation = context.get(_ACTIVATION)
        # A span that the user has opened since is ambient: it stays, and the receive is its child.
        if isinstance(activation, _Activation) and trace.get_current_span(context) is activation.span:
            attach(activation.before)
            return activation.before
        return context

    def bound_parent(self, message: Any) -> Context:
        """Returns the context for what is done about a message: the current one, else the message's own."""
        current = get_current()
        if span_context(current) is not None:
            return current
        delivery = delivery_of(message)
        try:
            context = extract(message.headers, current)
        except Exception:
            _faults.report("reading the context of a message")
            context = current
        if delivery is not None and delivery.span_context is not None:
            context = trace.set_span_in_context(NonRecordingSpan(delivery.span_context), context)
        return context

    def stored_links(self, stored: Sequence[tuple[Any, Attributes | None]]) -> list[Link]:
        """Makes the links from a read to the writers of what it read.

        Args:
            stored: The headers of each message read, and the attributes of the link.
        """
        links: list[Link] = []
        for headers, attributes in stored:
            try:
                writer = span_context(extract(headers, _NO_CONTEXT))
            except Exception:
                _faults.report("reading the context of a stored message")
                continue
            if writer is not None:
                self.propagation.remember(writer.span_id)
                links.append(Link(writer, attributes))
        return links

    # -- ending -------------------------------------------------------------------------------------------------------

    def observed(
        self,
        channel: Channel,
        attributes: Attributes,
        links: Sequence[Link],
        parent: Context,
        started: int,
        started_at: int,
        error: BaseException | Failure | None,
        messages: Sequence[Any],
    ) -> Span:
        """Makes the span of an operation that is over, records the metrics.

        Args:
            channel: The operation and what it is about.
            attributes: All attributes of the span.
            links: Its links.
            parent: The context that holds the parent.
            started: When it began, on the clock of `perf_counter_ns`.
            started_at: The same in nanoseconds since the epoch.
            error: What it failed with, if it did.
            messages: What was received, for the user's hook.

        Returns:
            The span, ended; an invalid one after a fault.
        """
        try:
            span = self.tracer.start_span(channel.span_name, parent, channel.kind, attributes, links, started_at)
        except Exception:
            _faults.report("starting a span")
            return INVALID_SPAN
        shows = self.options.consume_hook is not None
        if shows or self.metrics.on:
            parent = trace.set_span_in_context(span, parent)
        if shows:
            self.run_consume_hook(span, parent, messages)
        self.end(channel, span, parent, started, error)
        return span

    def nothing(
        self,
        channel: Channel,
        parent: Context,
        started: int,
        started_at: int,
        failure: BaseException | Failure | None,
    ) -> None:
        """Records that nothing came: an error's span if there is a reason, else no span and no error, the time only.

        Args:
            channel: The receive and what it is about.
            parent: The context that it was called in.
            started: When that was, on the clock of `perf_counter_ns`.
            started_at: The same in nanoseconds since the epoch.
            failure: Why nothing came; None where waiting was in vain, or was given up.
        """
        if channel.excluded:
            return
        if failure is not None:
            self.observed(channel, channel.attributes, (), parent, started, started_at, failure, ())
            return
        metrics = self.metrics
        if metrics.on or metrics.resolve():
            try:
                metrics.operation_duration.record(
                    (perf_counter_ns() - started) / 1e9, channel.series.attributes, parent
                )
            except Exception:
                _faults.report("recording an operation")

    def end(
        self, channel: Channel, span: Span, context: Context, started: int, error: BaseException | Failure | None
    ) -> None:
        """Writes an operation's outcome into its metrics and its span, and ends it.

        Args:
            channel: The operation and what it is about.
            span: Its span.
            context: The context that holds the span.
            started: When it began, on the clock of `perf_counter_ns`.
            error: What it failed with, if it did; being cancelled is no failure.
        """
        series = channel.series
        metrics = self.metrics
        try:
            try:
                if error is not None and not isinstance(error, _CANCELLED):
                    failure = error if isinstance(error, Failure) else self.classify(error)
                    series = series.failed(failure.error_type)
                    if span.is_recording():
                        span.set_attribute(ERROR_TYPE, failure.error_type)
                        span.set_status(Status(StatusCode.ERROR, failure.description))
                        if not failure.expected and isinstance(error, BaseException):
                            span.record_exception(error)
                if channel.counts_at_end:
                    series.count += 1
                if metrics.on or (metrics.waiting and _METRICS["_METER_PROVIDER"] is not None and metrics.resolve()):
                    histogram = metrics.process_duration if channel.operation is PROCESS else metrics.operation_duration
                    histogram.record((perf_counter_ns() - started) / 1e9, series.attributes, context)
            finally:
                span.end()
        except Exception:
            _faults.report("recording an operation")

    def run_consume_hook(self, span: Span, context: Context, messages: Sequence[Any]) -> None:
        """Shows received messages to the user's hook."""
        hook = self.options.consume_hook
        if hook is None or not span.is_recording():
            return
        for message in messages:
            self._run_hook("the consume hook", hook, span, context, message)

    def _run_hook(
        self, where: str, hook: Callable[[Span, Any], None], span: Span, context: Context, message: Any
    ) -> None:
        previous = get_current()
        attach(context)
        try:
            with outside():
                hook(span, message)
        except (Exception, CancelledError):  # nobody cancels a plain function: the hook looked at a cancelled future
            _faults.report(where)
        finally:
            attach(previous)


class ActiveOperation(Call):
    """A send whose span is open, and the mark for what nats-py calls inside.

    Args:
        channel: What is sent where.
        span: Its span.
        context: The context with it.

    Attributes:
        span: Its span.
        started: When it began, on the clock of `perf_counter_ns`.
        shown: Whether the hook has seen the message: one call may publish twice (a KV create over a tombstone).
    """

    recorded = True
    channel: Channel
    context: Context
    follows = "publish"
    shown: bool = False

    def __init__(self, channel: Channel, span: Span, context: Context) -> None:
        self.context = context  # pyright: ignore[reportIncompatibleVariableOverride] (it always has one)
        self.channel = channel  # pyright: ignore[reportIncompatibleVariableOverride]
        self.span = span
        self.started = perf_counter_ns()

    def end(self, error: BaseException | Failure | None = None) -> None:
        """Ends the operation.

        Args:
            error: What it failed with, if it did; being cancelled is no failure.
        """
        channel = self.channel
        channel.connection.telemetry.end(channel, self.span, self.context, self.started, error)


class Delivery:
    """What we know of a message that was handed to the application, kept on the message; and its processing.

    Attributes:
        source: Where it came from.
        headers: Its headers, where the message itself does not have them.
        creation: Its creation context, if it came with one.
        span_context: The context of its process span, else of its receive span.
        span: The process span while it is open.
        context: The context with that span.
        failure: What its handler answered to say that it failed, without raising.
        processed: Whether it has had its process span.
        settled: Whether its handler has settled it, so that the automatic ack that follows will come to nothing.
    """

    __slots__ = (
        "_channel",
        "_started",
        "context",
        "creation",
        "failure",
        "headers",
        "processed",
        "settled",
        "source",
        "span",
        "span_context",
    )

    def __init__(self, source: Source | None, creation: SpanContext | None, headers: Any = None) -> None:
        self.source = source
        self.creation = creation
        self.headers = headers
        self.span: Span | None = None
        self.span_context: SpanContext | None = None
        self.processed = self.settled = False

    def begin(self, channel: Channel, span: Span, context: Context) -> None:
        """Begins the processing.

        Args:
            channel: The operation and what it is about.
            span: The process span, started.
            context: The context with it.
        """
        self._channel = channel
        self.span = span
        self.span_context = span.get_span_context()
        self.context = context
        self.failure: Failure | None = None
        self.processed = True
        self._started = perf_counter_ns()

    def set(self, attributes: Attributes) -> None:
        """Adds attributes to the process span."""
        if self.span is not None and self.span.is_recording():
            self.span.set_attributes(attributes)

    def end(self, error: BaseException | Failure | None = None) -> None:
        """Ends the processing; a second time does nothing.

        Args:
            error: What it failed with, if it did; being cancelled is no failure.
        """
        span, context, channel = self.span, self.context, self._channel
        if span is None:
            return
        # The message may be kept for long; the span need not.
        self.span = None
        self.context = _NO_CONTEXT
        if not channel.excluded:
            channel.connection.telemetry.end(channel, span, context, self._started, error)


class Observation(Call):
    """An operation whose span is made when it is over, and the mark for what nats-py calls inside.

    Args:
        telemetry: What it belongs to.
        parent: The context that holds the parent.

    Attributes:
        telemetry: What it belongs to.
        parent: The context that holds the parent.
        started: When it began, on the clock of `perf_counter_ns`.
        started_at: The same in nanoseconds since the epoch.
    """

    follows = "next_msg"

    def __init__(self, telemetry: Telemetry, parent: Context) -> None:
        self.telemetry = telemetry
        self.parent = parent
        self.started = perf_counter_ns()
        self.started_at = time_ns()

    def end(
        self,
        channel: Channel,
        attributes: Attributes,
        links: Sequence[Link] = (),
        error: BaseException | Failure | None = None,
        messages: Sequence[Any] = (),
    ) -> Span:
        """Makes the span, records the metrics.

        Args:
            channel: The operation and what it is about.
            attributes: All attributes of the span.
            links: Its links.
            error: What it failed with, if it did.
            messages: What was received, for the user's hook.

        Returns:
            The span, ended; an invalid one after a fault.
        """
        return self.telemetry.observed(
            channel, attributes, links, self.parent, self.started, self.started_at, error, messages
        )

    def nothing(self, channel: Channel, failure: BaseException | Failure | None = None) -> None:
        """Records that nothing came, see `Telemetry.nothing`."""
        self.telemetry.nothing(channel, self.parent, self.started, self.started_at, failure)


class ObservedCall(Observation):
    """An observation of a call that is known from the start.

    Args:
        telemetry: What it belongs to.
        parent: The context that holds the parent.
        channel: The operation and what it is about.

    Attributes:
        attributes: All attributes of the span; to be added to.
    """

    recorded = True
    channel: Channel
    follows = "get_msg"

    def __init__(self, telemetry: Telemetry, parent: Context, channel: Channel) -> None:
        self.telemetry = telemetry
        self.parent = parent
        self.started = perf_counter_ns()
        self.started_at = time_ns()
        self.channel = channel  # pyright: ignore[reportIncompatibleVariableOverride]
        self.attributes = channel.attributes.copy()
