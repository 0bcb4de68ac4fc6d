# Copyright The OpenTelemetry Authors
# SPDX-License-Identifier: Apache-2.0

"""Every public coroutine of nats-py is either patched or left alone for a reason that stands here.

A release of nats-py with a new method fails this test, and so does a reason for a method that is gone or patched.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import nats
import pytest

from support.patched import PATCHED, VERSION

NEWEST = (2, 16)
"""The release that the reasons are checked against; an older one lacks some of these methods."""

MODULES = (
    "nats",
    "nats.aio.client",
    "nats.aio.msg",
    "nats.aio.subscription",
    "nats.js.client",
    "nats.js.kv",
    "nats.js.manager",
    "nats.js.object_store",
    "nats.micro",
    "nats.micro.request",
    "nats.micro.service",
)

NOT_TRACED = {
    "Client.__aenter__": "does nothing: the connection is there already",
    "Client.__aexit__": "drains or closes, see there",
    "Client.close": "says nothing to the server",
    "Client.drain": "about no message; what its callbacks still process is traced",
    "Client.flush": "a round trip of the client's own, about no message",
    "Client.force_reconnect": "reconnects, which is the connection's affair (and a metric)",
    "Client.rtt": "a round trip of the client's own, about no message",
    "Client.subscribe": "sends one line and waits for nothing; its messages are traced",
    "JetStreamContext.publish_async_completed": "waits for what `publish_async` began, whose spans end by themselves",
    "JetStreamContext.PullSubscription.consumer_info": "calls `JetStreamManager.consumer_info`, which is traced",
    "JetStreamContext.PullSubscription.unsubscribe": "sends one line and waits for nothing",
    "JetStreamContext.PushSubscription.consumer_info": "calls `JetStreamManager.consumer_info`, which is traced",
    "JetStreamContext.PushSubscription.unsubscribe": "sends one line and waits for nothing",
    "KeyValue.KeyWatcher.stop": "unsubscribes",
    "ObjectStore.ObjectWatcher.stop": "unsubscribes",
    "Subscription.drain": "about no message; what its callback still processes is traced",
    "Subscription.unsubscribe": "sends one line and waits for nothing",
    "nats.connect": "calls `Client.connect`, which is traced",
    "nats.micro.add_service": "subscribes; the requests are traced",
    "EndpointManager.add_endpoint": "abstract",
    "Group.add_endpoint": "subscribes; the requests are traced",
    "Service.__aenter__": "starts the service, see there",
    "Service.__aexit__": "stops the service, see there",
    "Service.add_endpoint": "subscribes; the requests are traced",
    "Service.reset": "sets counters to zero, without the server",
    "Service.start": "subscribes to the discovery verbs, which are nobody's business",
    "Service.stop": "drains the endpoints' subscriptions; what they still process is traced",
}

ITERATOR_METHODS = ("__aiter__", "__anext__")


def modules() -> Iterator[ModuleType]:
    for name in MODULES:
        try:
            yield importlib.import_module(name)
        except ModuleNotFoundError:
            assert VERSION < NEWEST, f"{name} is gone"


def classes(owner: Any, module: str) -> Iterator[type]:
    """The classes that are defined in a module, and in those."""
    for value in vars(owner).values():
        if inspect.isclass(value) and value.__module__ == module and value is not owner:
            yield value
            yield from classes(value, module)


def is_coroutine(attribute: Any) -> bool:
    # On Python 3.12 the module `inspect` passes for a coroutine function: its mark is an attribute of its own.
    if inspect.ismodule(attribute):
        return False
    if isinstance(attribute, classmethod | staticmethod):
        attribute = attribute.__func__
    attribute = inspect.unwrap(attribute) if callable(attribute) else attribute
    return inspect.iscoroutinefunction(attribute) or inspect.isasyncgenfunction(attribute)


def is_public(owner: type, name: str, attribute: Any) -> bool:
    # The iterator behind `sub.messages` has a private name, and is the program's to iterate over.
    if name in ITERATOR_METHODS:
        return True
    if owner.__name__.startswith("_") or not is_coroutine(attribute):
        return False
    return not name.startswith("_") or name.endswith("__")


def methods() -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for module in modules():
        for owner in classes(module, module.__name__):
            for name, attribute in vars(owner).items():
                if is_public(owner, name, attribute):
                    found[f"{owner.__qualname__}.{name}"] = (owner, name)
        for name, attribute in vars(module).items():
            if not name.startswith("_") and is_coroutine(attribute) and attribute.__module__ == module.__name__:
                found[f"{module.__name__}.{name}"] = (module, name)
    return found


METHODS = methods()
PATCHED_NAMES = {f"{owner.__qualname__}.{name}" for owner, name in PATCHED}


def test_the_whole_of_nats_py_is_seen():
    """Guards the enumeration itself: one method of each class, of each kind."""
    expected = {
        "Client.publish",
        "JetStreamContext.publish",
        "JetStreamContext.PullSubscription.fetch",
        "JetStreamManager.add_stream",
        "KeyValue.KeyWatcher.updates",
        "KeyValue.get",
        "Msg.respond",
        "Subscription.next_msg",
        "_SubscriptionMessageIterator.__anext__",
        "nats.connect",
    }
    if VERSION >= (2, 9):
        expected |= {"ObjectStore.put", "Request.respond", "Service.add_endpoint", "nats.micro.add_service"}
    assert expected <= set(METHODS)
    assert nats.connect is METHODS["nats.connect"][0].connect


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_patched_or_left_alone_for_a_reason(method: str):
    patched, reason = method in PATCHED_NAMES, NOT_TRACED.get(method)
    assert patched or reason, f"{method} is new: trace it, or say here why not"
    assert not (patched and reason), f"{method} is patched: its reason is out of date"


@pytest.mark.parametrize("method", NOT_TRACED)
@pytest.mark.skipif(VERSION < NEWEST, reason=f"reasons are for nats-py {NEWEST[0]}.{NEWEST[1]} and later")
def test_each_reason_is_for_a_method_that_exists(method: str):
    assert method in METHODS, f"{method} does not exist any more"


@pytest.mark.parametrize("method", sorted(PATCHED_NAMES))
def test_each_patched_method_is_public_or_known_to_be_needed(method: str):
    assert method in METHODS or method in NEEDED_PRIVATE, f"{method} is private: say here what it is patched for"


@pytest.mark.skipif(VERSION < NEWEST, reason=f"the list is for nats-py {NEWEST[0]}.{NEWEST[1]} and later")
def test_no_private_method_is_listed_that_is_not_patched():
    assert set(NEEDED_PRIVATE) <= PATCHED_NAMES


NEEDED_PRIVATE = {
    "Client._attempt_reconnect": "what is published without a connection waits in a buffer, where headers count",
    "Client._close": "asynchronous publishes, and messages, that will never be acknowledged end here",
    "Client._process_connect_init": "a reconnect changes server and client id",
    "Client._process_op_err": "as _attempt_reconnect, from the first moment on",
    "Endpoint._start": "wraps a service's handler",
    "JetStreamContext._auto_ack_callback": "an automatic ack after a manual one comes to nothing",
    "JetStreamContext._JSI.recreate_consumer": "an ordered consumer is made again in the background",
    "JetStreamContext._handle_async_reply": "the refusal of an asynchronous publish ends its span",
    "KeyValue.KeyWatcher.__init__": "a watcher's entries lose the headers of their messages",
    "ObjectStore.ObjectWatcher.__init__": "a watcher's entries lose the headers of their messages",
    "Subscription._start": "wraps a subscription's callback",
    "Subscription._stop_processing": "what waits for the messages of a subscription that is left ends here",
}
