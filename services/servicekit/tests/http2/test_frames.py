"""Whatever way a socket cuts it up, what was written is read; and what was never a frame ends the connection."""

from typing import Final

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servicekit.http2 import frames, header_blocks
from servicekit.http2.frame_reader import FRAME_LIMIT, LARGEST_HEADERS, FrameReader
from servicekit.http2.frames import Http2Error

TEXT = st.binary(max_size=300)
HEADERS = st.lists(st.tuples(st.binary(min_size=1, max_size=20).map(bytes.lower), TEXT), max_size=8)
FRAMES = st.lists(
    st.one_of(
        st.tuples(st.just(frames.DATA), st.sampled_from([0, frames.END_STREAM]), st.integers(1, 9), TEXT),
        st.tuples(st.sampled_from([frames.PING, frames.RST_STREAM, 77]), st.just(0), st.integers(0, 9), TEXT),
        st.tuples(st.just(frames.HEADERS), st.just(frames.END_HEADERS), st.integers(1, 9), TEXT),
    ),
    max_size=12,
)


class Seen:
    """Keeps what a reader hands on; of data it keeps the sum."""

    def __init__(self, expected: bytes = b"") -> None:
        self.taken: list[tuple[object, ...]] = []
        self.data: dict[int, bytes] = {}
        self.used = 0
        self.ended: list[int] = []
        self.reader = FrameReader(expected, self.take, self.take_data)

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.taken.append((kind, flags, stream, payload))

    def take_data(self, stream: int, part: bytes | memoryview, size: int, ended: bool) -> None:
        self.data[stream] = self.data.get(stream, b"") + bytes(part)
        self.used += size
        if ended:
            self.ended.append(stream)


@given(FRAMES, st.lists(st.integers(1, 40), max_size=200), st.booleans())
def test_the_same_is_read_however_it_is_cut(
    written: list[tuple[int, int, int, bytes]], cuts: list[int], preface: bool
) -> None:
    expected = frames.PREFACE if preface else b""
    whole, pieces = Seen(expected), Seen(expected)
    stream = expected + b"".join(frames.frame(*each) for each in written)
    whole.reader.feed(stream)
    for cut in cuts:
        pieces.reader.feed(stream[:cut])
        stream = stream[cut:]
    pieces.reader.feed(stream)
    assert whole.taken == pieces.taken == [each for each in written if each[0] != frames.DATA]
    assert whole.data == pieces.data
    assert whole.ended == pieces.ended
    assert whole.used == pieces.used == sum(len(each[3]) for each in written if each[0] == frames.DATA)


def test_a_large_frame_of_data_is_handed_on_as_it_comes() -> None:
    seen = Seen()
    seen.reader.feed(frames.data_head(FRAME_LIMIT, frames.END_STREAM, 1) + bytes(10_000))
    assert (len(seen.data[1]), seen.ended) == (10_000, [])
    seen.reader.feed(bytes(FRAME_LIMIT - 10_000))
    assert (len(seen.data[1]), seen.ended) == (FRAME_LIMIT, [1])


def test_padding_and_priority_are_no_part_of_what_was_said() -> None:
    seen = Seen()
    flags = frames.PADDED | frames.PRIORITISED
    seen.reader.feed(frames.frame(frames.HEADERS, flags, 3, b"\x02" + bytes(5) + b"he" + bytes(2)))
    seen.reader.feed(frames.frame(frames.CONTINUATION, frames.END_HEADERS, 3, b"ad"))
    seen.reader.feed(frames.frame(frames.DATA, frames.PADDED, 3, b"\x03abc" + bytes(3)))
    assert seen.taken == [(frames.HEADERS, flags, 3, b"head")]
    assert (seen.data, seen.used) == ({3: b"abc"}, 7)


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
        (frames.PREFACE + (FRAME_LIMIT + 1).to_bytes(3, "big") + bytes(6), frames.FRAME_SIZE_ERROR),
        (frames.PREFACE + frames.frame(frames.CONTINUATION, 0, 1), frames.PROTOCOL_ERROR),
        (frames.PREFACE + frames.frame(frames.HEADERS, 0, 1) * 2, frames.PROTOCOL_ERROR),
        (
            frames.PREFACE + frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.DATA, 0, 1, b"x"),
            frames.PROTOCOL_ERROR,
        ),
        (frames.PREFACE + frames.frame(frames.DATA, frames.PADDED, 1, b"\x01"), frames.PROTOCOL_ERROR),
        (
            frames.PREFACE
            + frames.frame(frames.HEADERS, 0, 1)
            + frames.frame(frames.CONTINUATION, 0, 1, b"x" * 16_000) * (LARGEST_HEADERS // 16_000 + 1),
            frames.ENHANCE_YOUR_CALM,
        ),
        (
            frames.PREFACE + frames.frame(frames.HEADERS, 0, 1) + frames.frame(frames.CONTINUATION, 0, 1) * 1_000,
            frames.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_what_is_no_frame_is_an_error(stream: bytes, code: int) -> None:
    with pytest.raises(Http2Error) as raised:
        Seen(frames.PREFACE).reader.feed(stream)
    assert raised.value.code == code


@given(HEADERS)
def test_what_we_write_any_decoder_reads(headers: list[tuple[bytes, bytes]]) -> None:
    block = header_blocks.write(headers)
    assert [(bytes(n), bytes(v)) for n, v in hpack.Decoder().decode(block, raw=True)] == headers
    assert list(header_blocks.Reader().read(block)) == headers


@given(st.lists(st.tuples(HEADERS, st.sampled_from(["tables", "Huffman", "ours"])), max_size=8))
def test_we_read_what_any_encoder_writes(blocks: list[tuple[list[tuple[bytes, bytes]], str]]) -> None:
    encoder, reader = hpack.Encoder(), header_blocks.Reader()
    for headers, how in blocks:
        block = header_blocks.write(headers) if how == "ours" else encoder.encode(headers, huffman=how == "Huffman")
        assert list(reader.read(block)) == headers


FEW: Final = st.lists(
    st.tuples(st.sampled_from([b":path", b"te", b"a", b"b"]), st.sampled_from([b"", b"/", b"x" * 1_500, b"y" * 2_000])),
    max_size=4,
)


@given(st.lists(st.tuples(FEW, st.sampled_from(["tables", "ours"]), st.sampled_from([0, 100, 4_096])), max_size=20))
def test_a_block_that_comes_again_means_what_the_table_makes_of_it_then(
    blocks: list[tuple[list[tuple[bytes, bytes]], str, int]],
) -> None:
    encoder, reader = hpack.Encoder(), header_blocks.Reader()
    for headers, how, table_bytes in blocks:
        if how == "tables":
            encoder.header_table_size = table_bytes
        block = header_blocks.write(headers) if how == "ours" else encoder.encode(headers, huffman=False)
        assert list(reader.read(block)) == headers


@given(st.lists(st.one_of(st.binary(max_size=6), st.sampled_from([b"\xbe", b"\x40\x01a\x01b", b"\x20"])), max_size=20))
def test_blocks_are_read_as_a_plain_decoder_reads_them(blocks: list[bytes]) -> None:
    decoder, reader = hpack.Decoder(), header_blocks.Reader()
    for block in blocks:
        try:
            plain = [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(Http2Error):
                reader.read(block)
            return
        assert list(reader.read(block)) == plain


@given(TEXT)
def test_no_block_is_worse_than_unreadable(block: bytes) -> None:
    try:
        header_blocks.Reader().read(block)
    except Http2Error as error:
        assert error.code == frames.COMPRESSION_ERROR
