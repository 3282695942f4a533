"""Clients, targets and routes do what Hypothesis makes up, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.streams import quiet
from support.wire import PATIENCE, Backend, Message, Peer, Proxy, backend, proxy

MAX_CLIENTS = 4
MAX_AHEAD = 5  # requests of one client without an answer
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n"


class Plan:
    """A request, and what its target answers."""

    def __init__(self, number: int, method: bytes, content: bytes, chunked: bool) -> None:
        self.number = number
        self.method = method
        self.content = content
        head = b"%b /%d HTTP/1.1\r\nHost: h\r\n" % (method, number)
        if chunked:
            size = max(1, len(content) // 3)
            chunks = [content[at : at + size] for at in range(0, len(content), size)]
            self.sent = head + b"Transfer-Encoding: chunked\r\n\r\n"
            self.sent += b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in chunks) + b"0\r\n\r\n"
        elif content:
            self.sent = head + b"Content-Length: %d\r\n\r\n" % len(content) + content
        else:
            self.sent = head + b"\r\n"
        # The answer repeats the number and the content that was received.
        self.framing = "length"
        self.cut: int | None = None  # the target vanishes behind so many bytes
        self.closes = False  # the target ends its connection, without saying so
        self.seen = 0

    def answer(self, received: bytes) -> bytes:
        content = b"%d:" % self.number + received
        head = b"HTTP/1.1 200 OK\r\n"
        if self.method == b"HEAD":
            return head + b"Content-Length: %d\r\n\r\n" % len(content)
        if self.framing == "length":
            return head + b"Content-Length: %d\r\n\r\n" % len(content) + content
        if self.framing == "chunked":
            middle = len(content) // 2
            parts = [one for one in (content[:middle], content[middle:]) if one]
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in parts)
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        return head + b"\r\n" + content


class Client:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.waiting: deque[Plan] = deque()


class Conversation(RuleBasedStateMachine):
    loop_factory: Any = staticmethod(asyncio.new_event_loop)
    upstream = "direct"

    def __init__(self) -> None:
        super().__init__()
        self.loop = self.loop_factory()
        self.stack = contextlib.AsyncExitStack()
        self.plans: dict[int, Plan] = {}
        self.clients: list[Client] = []
        self.backends: list[Backend] = []
        self.chp: Proxy = self.run(self.begin())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 4 * PATIENCE))

    async def begin(self) -> Proxy:
        for _ in range(2):
            self.backends.append(await self.stack.enter_async_context(backend(self.serve)))
        running = proxy(self.backends[0].url, upstream=self.upstream)
        return await self.stack.enter_async_context(running)

    async def serve(self, peer: Peer) -> None:
        while True:
            message = await peer.receive_message()
            plan = self.plans[int(message.start.split()[1][1:])]
            plan.seen += 1
            if b"upgrade" in message.names:
                await peer.send(SWITCHED)
                while data := await peer.reader.read(2**16):
                    await peer.send(data)
                return
            assert message.content == plan.content
            assert message.start.split()[0] == plan.method
            answer = plan.answer(message.content)
            if plan.cut is not None and plan.cut < len(answer):
                await peer.send(answer[: plan.cut])
                return
            await peer.send(answer)
            if plan.closes or plan.framing == "until close":
                return

    def teardown(self) -> None:
        self.run(self.end())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    async def end(self) -> None:
        try:
            for client in self.clients:
                while client.waiting:
                    if not await self.receive(client):
                        break
                await client.peer.close()
            await quiet(self.chp)
            for plan in self.plans.values():
                repeatable = plan.method in (b"GET", b"HEAD", b"PUT", b"DELETE")
                assert plan.seen <= 1 + repeatable, "a request was sent too often"
        finally:
            await self.stack.aclose()

    # -- what may happen ------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < MAX_CLIENTS)
    @rule()
    def a_client_comes(self) -> None:
        self.clients.append(Client(self.run(self.chp.connect())))

    @precondition(lambda self: self.clients)
    @rule(
        data=st.data(),
        method=st.sampled_from([b"GET", b"GET", b"POST", b"PUT", b"HEAD", b"DELETE"]),
        content=st.binary(max_size=30) | st.integers(0, 200_000).map(lambda size: b"x" * size),
        chunked=st.booleans(),
        framing=st.sampled_from(["length", "length", "chunked", "until close"]),
        cut=st.none() | st.just(0) | st.integers(0, 80),
        closes=st.booleans(),
        pieces=st.lists(st.integers(0, 10**6), max_size=3),
        turns=st.integers(0, 3),
    )
    def a_request(
        self,
        data: st.DataObject,
        method: bytes,
        content: bytes,
        chunked: bool,
        framing: str,
        cut: int | None,
        closes: bool,
        pieces: list[int],
        turns: int,
    ) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if len(client.waiting) >= MAX_AHEAD:
            return
        if method in (b"GET", b"HEAD"):
            content, chunked = b"", False
        plan = Plan(len(self.plans), method, content, chunked)
        plan.framing, plan.cut, plan.closes = framing, cut, closes
        self.plans[plan.number] = plan
        client.waiting.append(plan)
        places = sorted({piece % len(plan.sent) for piece in pieces} | {0, len(plan.sent)})

        async def send() -> None:
            for start, end in pairwise(places):
                if client.peer.writer.transport.is_closing():
                    return  # the proxy has ended it
                client.peer.writer.write(plan.sent[start:end])
                for _ in range(turns):
                    await asyncio.sleep(0)

        self.run(send())

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def an_answer_is_read(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if client.waiting and not self.run(self.receive(client)):
            self.run(client.peer.close())
            self.clients.remove(client)

    async def receive(self, client: Client) -> bool:
        """Receive the next answer; tell whether the connection can go on."""
        plan = client.waiting.popleft()
        whole = plan.answer(plan.content)
        cut = plan.cut is not None and plan.cut < len(whole)
        has_head = plan.cut is not None and b"\r\n\r\n" in whole[: plan.cut]
        until_close = plan.framing == "until close" and plan.method != b"HEAD"
        try:
            message = await client.peer.receive_message(head_only=plan.method == b"HEAD")
        except (ConnectionResetError, asyncio.IncompleteReadError):
            # A reset behind it makes asyncio's reader forget what it has.
            later = any(other.cut is not None for other in client.waiting)
            assert later or (cut and has_head), vars(plan)
            return False
        if cut and not has_head:
            assert message.status == 503
        elif message.status == 503:
            # Its connection had ended, and it could not be sent again.
            assert plan.method == b"POST" or plan.content or cut, vars(plan)
        else:
            assert message.status == 200
            if plan.method == b"HEAD":
                return True
            expected = b"%d:" % plan.number + plan.content
            if cut:
                # Only an end that is none is taken for one.
                assert until_close, vars(plan)
                assert expected.startswith(message.content)
            else:
                assert message.content == expected
        return message.value(b"connection") != b"close"

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), how=st.sampled_from(["abort", "close", "eof"]))
    def a_client_leaves(self, data: st.DataObject, how: str) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)

        async def leave() -> None:
            if how == "abort":
                client.peer.abort()
            elif how == "eof" and not client.peer.writer.transport.is_closing():
                client.peer.send_eof()
            await client.peer.close()

        self.run(leave())

    @rule(early=st.booleans(), size=st.integers(1, 100_000), leaves=st.sampled_from(["client", "abort"]))
    def a_tunnel(self, early: bool, size: int, leaves: str) -> None:
        plan = Plan(len(self.plans), b"GET", b"", False)
        self.plans[plan.number] = plan
        head = plan.sent[:-2] + b"Connection: Upgrade\r\nUpgrade: raw\r\n\r\n"

        async def talk() -> None:
            peer = await self.chp.connect()
            peer.writer.write(head + (b"early" if early else b""))
            message = Message(await peer.receive_head())
            assert message.status == 101
            if early:
                assert await peer.receive(5) == b"early"
            peer.writer.write(b"y" * size)
            assert await peer.receive(size) == b"y" * size
            if leaves == "abort":
                peer.abort()
            await peer.close()

        self.run(talk())

    @rule(number=st.integers(0, 1))
    def the_route_moves(self, number: int) -> None:
        self.run(self.chp.add_route("/", self.backends[number].url))

    @rule(turns=st.integers(1, 50))
    def time_passes(self, turns: int) -> None:
        async def pause() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(pause())


class CurlConversation(Conversation):
    loop_factory = staticmethod(uvloop.new_event_loop)
    upstream = "curl"


@pytest.mark.parametrize("kind", [Conversation, CurlConversation])
def test_conversations(kind: type[Conversation], log_lines: Any) -> None:
    examples = settings().max_examples // 16
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples, stateful_step_count=25, phases=[Phase.generate], report_multiple_bugs=False
        ),
    )
    log_lines.take("503 [A-Z]+ /\\d+ |Response to [A-Z]+ /\\d+ cut: ")
