"""Requests of people who want a server to break. Each kind is a function of a random generator."""

import base64
import gzip
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from urllib.parse import quote

from PIL import Image
from served_model import Served, request

Answer = tuple[int | None, bytes]
Kind = Callable[[Served, random.Random], Answer]
_GARBAGE_BYTES = 300


def picture(rng: random.Random, *, format: str = "JPEG", size: tuple[int, int] = (80, 60), mode: str = "RGB") -> bytes:
    """An image file of noise."""
    small = Image.frombytes("RGB", (8, 6), rng.randbytes(8 * 6 * 3))
    encoded = io.BytesIO()
    base = small.resize(size).convert("L" if mode in ("I;16", "F") else "RGB")  # which have no way from colours
    base.convert(mode).save(encoded, format)
    return encoded.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """With its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, pixels: bytes = b"") -> bytes:
    """A grey PNG of a size that it claims, with what is put into it."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body + png_chunk(b"IEND", b"")


def image(served: Served, data: bytes, query: str = "", path: str = "/predict") -> Answer:
    """As the request's body."""
    return served.exchange(request("POST", f"{path}{query}", data, Content_Type="image/jpeg"))


def truncated(served: Served, rng: random.Random) -> Answer:
    data = picture(rng, format=rng.choice(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]))
    return image(served, data[: rng.randrange(1, len(data))])


def flipped(served: Served, rng: random.Random) -> Answer:
    data = bytearray(picture(rng, format=rng.choice(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])))
    for _ in range(rng.randrange(1, 40)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return image(served, bytes(data), path=rng.choice(["/predict", "/draw"]))


def no_image(served: Served, rng: random.Random) -> Answer:
    start = rng.choice(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"RIFF", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
    )
    return image(served, start + rng.randbytes(rng.randrange(1, 5000)))


def bomb(served: Served, rng: random.Random) -> Answer:
    side = rng.choice([30_000, 65_000, 2**31 - 1])
    claimed = png(side, side, pixels=bytes(1000))
    large = png(12_000, 12_000, pixels=bytes(12_001 * 12_000)) if rng.random() < 0.2 else claimed
    text = png(8, 8, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10_000_000))), pixels=bytes(9 * 8))
    return image(served, rng.choice([claimed, large, text]))


def odd(served: Served, rng: random.Random) -> Answer:
    """Images that are odd, and must be answered or refused like others."""
    sizes = [(1, 1), (1, 5000), (5000, 1), (3, 2000), (2, 2)]
    modes = [
        ("PNG", "I;16"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "1"),
        ("JPEG", "CMYK"),
        ("JPEG", "L"),
        ("TIFF", "F"),
    ]
    format, mode = rng.choice(modes)
    return image(
        served, picture(rng, format=format, mode=mode, size=rng.choice(sizes)), path=rng.choice(["/predict", "/draw"])
    )


def animated(served: Served, rng: random.Random) -> Answer:
    frames = [Image.new("P", (20, 20), number) for number in range(rng.randrange(2, 200))]
    encoded = io.BytesIO()
    frames[0].save(encoded, "GIF", save_all=True, append_images=frames[1:])
    return image(served, encoded.getvalue())


def too_many_bytes(served: Served, rng: random.Random) -> Answer:
    body = bytes(rng.randrange(2_000_001, 4_000_000))
    return image(served, body)


def wrong_type(served: Served, rng: random.Random) -> Answer:
    kinds = [
        "",
        "text/html",
        "application/xml",
        "image",
        "multipart/form-data",
        "application/json; charset=utf-7",
        "é",
        "*/*",
    ]
    return served.exchange(request("POST", "/predict", picture(rng), Content_Type=rng.choice(kinds)))


def compressed(served: Served, rng: random.Random) -> Answer:
    body = gzip.compress(bytes(20_000_000), 1)
    return served.exchange(request("POST", "/predict", body, Content_Type="image/png", Content_Encoding="gzip"))


def headers(served: Served, rng: random.Random) -> Answer:
    many = {f"X_{number}": "a" * 50 for number in range(rng.choice([10, 500, 5000]))}
    huge = {"X_Huge": "a" * rng.choice([10_000, 100_000, 1_000_000])}
    odd = {"Authorization": rng.choice(["Bearer ", "Bearer \xff", "Basic " + "A" * 5000, "\0"])}
    return served.exchange(request("GET", "/model", **rng.choice([many, huge, odd])))


def bad_json(served: Served, rng: random.Random) -> Answer:
    encoded = base64.b64encode(picture(rng)).decode()
    deep = "[" * 100_000
    body = rng.choice(
        [
            deep, '{"a":' * 50_000, '{"image":' + deep, "", "{", "null", "NaN", '{"image": NaN}', '{"image": 1e999}',
            '{"image": null}', json.dumps({"image": [encoded]}), json.dumps({"image": encoded, "url": "x"}),
            json.dumps({"image": encoded[:-3]}), json.dumps({"image": "\ud800"}), '{"image": "\\u0000"}', "\ufeff{}",
            json.dumps({"image": encoded, "__proto__": {}}), json.dumps({"image": "A" * 1_000_000}),
            '{"image": "' + "\xff",
        ]
    )  # fmt: skip
    return served.exchange(
        request("POST", "/predict", body.encode("utf-8", "surrogatepass"), Content_Type="application/json")
    )


def query(served: Served, rng: random.Random) -> Answer:
    wrong = [
        "score=nan", "score=inf", "score=-inf", "score=1e308", "score=", "score=0x1", "score[]=1", "score=0.5&score=9",
        "classes=" + "a," * 5000, "classes=" + quote("\0'\";DROP TABLE"), "masks=all", "format=../../etc/passwd",
        "max_side=999999999", "image_id=" + "9" * 5000, "format=coco&image_id=1e400", "%", "%00=%ff", "=", "&&&&",
        "a=" + "b" * 50_000, "score=%F0%9F%92%A9",
    ]  # fmt: skip
    return image(served, picture(rng), "?" + rng.choice(wrong), rng.choice(["/predict", "/draw"]))


def paths(served: Served, rng: random.Random) -> Answer:
    targets = [
        "/../../../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "//predict", "/predict/../../x", "/%00",
        "/" + "a" * 60_000, "/-/routes", "/-/healthz", "/.env", "/docs", "/predict?" + "x" * 60_000, "*", "http://elsewhere/",
        "/%ff%fe", "/\xff", "file:///etc/passwd", "/static/../app.py", "/" + "../" * 5000,
    ]  # fmt: skip
    return served.exchange(request(rng.choice(["GET", "POST", "HEAD"]), rng.choice(targets)))


def methods(served: Served, rng: random.Random) -> Answer:
    method = rng.choice(["PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "CONNECT", "HEAD", "BREW", "A" * 5000, "GET\t"])
    return served.exchange(request(method, rng.choice(["/predict", "/model", "/health", "/"]), picture(rng)))


def framing(served: Served, rng: random.Random) -> Answer:
    """Lengths that are not, and smuggling."""
    body = picture(rng)
    wrong = [
        request("POST", "/predict", body, Content_Length="-1"),
        request("POST", "/predict", body, Content_Length="x"),
        request("POST", "/predict", body, Content_Length="9" * 30),
        request("POST", "/predict", body, Content_Length="5"),
        request("POST", "/predict", body, Transfer_Encoding="chunked"),
        request("POST", "/predict", b"zz\r\n", Transfer_Encoding="chunked"),
        request("POST", "/predict", b"ffffffffffffffffff\r\n", Transfer_Encoding="chunked"),
        request("POST", "/predict", body, Transfer_Encoding="gzip, identity"),
        request("GET", "/health", Upgrade="websocket", Sec_WebSocket_Key="x", Sec_WebSocket_Version="13"),
        request("GET", "/health", Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQAAP__"),
    ]
    return served.exchange(rng.choice(wrong), timeout=90)


def no_http(served: Served, rng: random.Random) -> Answer:
    sent = rng.choice(
        [
            rng.randbytes(_GARBAGE_BYTES), b"\x16\x03\x01\x02\x00\x01" + rng.randbytes(200), b"GET /\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", b"\0" * 70_000,
            b"POST /predict HTTP/1.0\r\n\r\n" + picture(rng),
        ]
    )  # fmt: skip
    client = served.open(sent)
    client.close()
    return None, b""


def forms(served: Served, rng: random.Random) -> Answer:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n%s\r\n'
    file = picture(rng)
    body = rng.choice(
        [
            part % (b"image", b"../../../etc/cron.d/x", b"") + file + b"\r\n--b--\r\n",
            part % (b"image", b"a" * 50_000, b"") + file + b"\r\n--b--\r\n",
            part % (b"image", b"a", b"X-Y: " + b"z" * 500_000 + b"\r\n") + file + b"\r\n--b--\r\n",
            part % (b"image", b"a", b"") + file,
            (part % (b"image", b"a", b"") + b"\r\n") * 2000 + b"--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + file + b"\r\n--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n' * 5000 + b"--b--\r\n",
            b"--b\r\n\r\n\r\n--b--", b"--b--", b"\r\n", b"--b" * 10_000, rng.randbytes(_GARBAGE_BYTES),
        ]
    )  # fmt: skip
    boundary = rng.choice(["b", "b", "b", "", "b" * 5000, '"', "b; charset=nothing"])
    return served.exchange(request("POST", "/predict", body, Content_Type=f"multipart/form-data; boundary={boundary}"))


def addresses(served: Served, rng: random.Random) -> Answer:
    url = rng.choice(
        [
            "http://169.254.169.254/latest/meta-data", "file:///etc/passwd", f"http://{served.host}:{served.port}/draw",
            "http://[::1]:22", "gopher://localhost", "http://0x7f000001/", "//localhost/", "http://[", "a" * 100_000,
        ]
    )  # fmt: skip
    return served.exchange(
        request("POST", "/predict", json.dumps({"url": url}).encode(), Content_Type="application/json")
    )


def leaves(served: Served, rng: random.Random) -> Answer:
    """Goes away amid its request, or before the answer."""
    whole = request("POST", rng.choice(["/predict", "/draw"]), picture(rng), Content_Type="image/jpeg")
    served.open(whole[: rng.choice([10, len(whole) // 2, len(whole) - 1, len(whole)])]).close()
    return None, b""


def expects(served: Served, rng: random.Random) -> Answer:
    """Asks whether it may send, and does so late."""
    data = picture(rng)
    head = request("POST", "/predict", data, Content_Type="image/jpeg", Expect="100-continue")
    return served.exchange(head[: -len(data)], data)


KINDS: tuple[Kind, ...] = (
    truncated, flipped, no_image, bomb, odd, animated, too_many_bytes, wrong_type, compressed, headers, bad_json, query,
    paths, methods, framing, no_http, forms, addresses, leaves, expects,
)  # fmt: skip
