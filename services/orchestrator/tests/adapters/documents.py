"""PDFs made by hand, good and hostile."""

import io
import zlib

import pypdf


def pdf(*pages: str, title: str = "") -> bytes:
    """Return a PDF with one line of text on each page."""
    streams = [f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET".encode() for page in pages]
    return assemble([(stream, b"") for stream in streams], title)


def bomb(size: int = 300_000_000) -> bytes:
    """Return a small PDF whose page is `size` bytes once it is decompressed."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(b"BT /F1 12 Tf (x) Tj ET " * 50_000) for _ in range(size // 1_150_000)]
    return assemble([(b"".join(parts) + packer.flush(), b"/Filter /FlateDecode")])


def encrypted(text: str) -> bytes:
    """Return a PDF that needs a password."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(text)))
    writer.encrypt("secret", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def assemble(streams: list[tuple[bytes, bytes]], title: str = "") -> bytes:
    """Return a PDF with these content streams and their filters, one for each page."""
    kids = " ".join(f"{5 + 2 * n} 0 R" for n in range(len(streams)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(streams)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) >>".encode(),
    ]
    for n, (stream, filtered) in enumerate(streams):
        font = "/Resources << /Font << /F1 3 0 R >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {font} /Contents {6 + 2 * n} 0 R >>"
        objects += [page.encode(), b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(stream), filtered, stream)]
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R /Info 4 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)
