"""Sources over HTTP, against a server on the loopback that can cut, refuse and change what it sends."""

import hashlib
import io
import os
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from raw_folders import data_config, write_coco

from detcore.config.data import Archive, Archives, Files
from detcore.data.sources import fetch_archives, fetch_files, obtain
from detcore.data.sources.archives import unpack
from detcore.data.sources.download import download
from detcore.data.sources.files import read_sums


class Server(ThreadingHTTPServer):
    """Serves `files`; `cut_after` drops a connection after so many bytes of the body, `statuses` answer with errors."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.statuses: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []

    def url(self, path=""):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        data = server.files.get(self.path.removeprefix("/"))
        if data is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(data) > 0 and start:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: server.cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


DATA = os.urandom(100_000)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def fetch(server, path, name="a.bin", **options):
    download(server.url(name), path, **{"sha256": sha256(DATA), "pause_seconds": 0.0, **options})


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_resumed(server, tmp_path, ranges):
    server.files["a.bin"] = DATA
    server.cut_after = 30_000
    server.ranges = ranges
    if not ranges:  # such a server sends all from the start each time: it never comes to an end
        with pytest.raises(ValueError, match=r"cut off at 30,000 of 100,000 bytes; run it again"):
            fetch(server, tmp_path / "a.bin", tries=2)
        server.cut_after = None
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    if ranges:
        assert [wanted for _, wanted in server.requests] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.files["a.bin"] = DATA
    (tmp_path / "a.bin.part").write_bytes(DATA[:70_000])
    fetch(server, tmp_path / "a.bin")
    fetch(server, tmp_path / "a.bin")  # there already
    assert server.requests == [("/a.bin", "bytes=70000-")]
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_part_that_is_whole_is_only_checked(server, tmp_path):
    server.files["a.bin"] = DATA
    (tmp_path / "a.bin.part").write_bytes(DATA)
    fetch(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_wrong_hash_is_refused_and_the_file_deleted(server, tmp_path):
    server.files["a.bin"] = DATA[:-1] + b"?"
    with pytest.raises(ValueError, match=r"a\.bin: SHA-256 is .*, not .*; the file is not what it should be"):
        fetch(server, tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_trouble_that_passes_is_waited_for_and_a_refusal_is_not(server, tmp_path):
    server.files["a.bin"] = DATA
    server.statuses = [503, 429]
    fetch(server, tmp_path / "a.bin")
    with pytest.raises(ValueError, match="404 Not Found"):
        fetch(server, tmp_path / "b.bin", name="b.bin")
    assert len(server.requests) == 4
    with pytest.raises(ValueError, match="only http and https"):
        download("file:///etc/passwd", tmp_path / "c", sha256="")


def test_a_server_out_of_reach_is_an_error(server, tmp_path):
    url = server.url("a.bin")
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"a\.bin: .*refused; run it again to go on from 0 bytes"):
        download(url, tmp_path / "a.bin", sha256="", tries=2, pause_seconds=0.0)


def zip_of(files, **attributes):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get("mode", 0o644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def tar_of(files, kind="w:gz", **member):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in member.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


FILES = {"a/b.txt": b"one", "c.txt": b"two"}


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_archives_are_unpacked(tmp_path, kind):
    data = zip_of(FILES) if kind == "zip" else tar_of(FILES, kind)
    (tmp_path / "archive").write_bytes(data)
    unpack(tmp_path / "archive", tmp_path / "folder")
    found = {p.relative_to(tmp_path / "folder").as_posix(): p for p in (tmp_path / "folder").rglob("*") if p.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


def damaged(data):
    return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


CLIMB = {"../evil.txt": b"x"}
HOSTILE = {
    "zip climbs": (zip_of(CLIMB), "could lead out"),
    "zip absolute": (zip_of({"/tmp/evil.txt": b"x"}), "could lead out"),
    "zip backslash": (zip_of({"..\\evil.txt": b"x"}), "could lead out"),
    "zip drive": (zip_of({"c:evil.txt": b"x"}), "could lead out"),
    "zip link": (zip_of({"evil": b"/etc"}, mode=stat.S_IFLNK | 0o777), "is a link or a device"),
    "zip twice": (zip_of({"a": b"x", "./a": b"y"}), "occurs twice"),
    "zip file as folder": (zip_of({"a": b"x", "a/b": b"y"}), "occurs twice|both a file and a folder"),
    "zip cut off": (zip_of({"a": os.urandom(5000)})[:-200], "cannot be unpacked"),
    "zip damaged": (damaged(zip_of({"a": os.urandom(5000)})), "cannot be unpacked"),
    "tar climbs": (tar_of(CLIMB), "could lead out"),
    "tar climbs inside": (tar_of({"a/../../evil.txt": b"x"}), "could lead out"),
    "tar absolute": (tar_of({"/tmp/evil.txt": b"x"}), "could lead out"),
    "tar symlink": (tar_of({"evil": b""}, type=tarfile.SYMTYPE, linkname="/etc"), "is a link or a device"),
    "tar hard link": (tar_of({"evil": b""}, type=tarfile.LNKTYPE, linkname="/etc/passwd"), "is a link or a device"),
    "tar device": (tar_of({"evil": b""}, type=tarfile.CHRTYPE), "is a link or a device"),
    "tar fifo": (tar_of({"evil": b""}, type=tarfile.FIFOTYPE), "is a link or a device"),
    "tar cut off": (tar_of({"a": os.urandom(50_000)})[:20_000], "cannot be unpacked"),
    "neither": (b"<html>", "cannot be unpacked"),
}


def link_then_write():
    """A link out of the folder, then a file through it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        archive.addfile(link)
        file = tarfile.TarInfo("a/evil.txt")
        file.size = 1
        archive.addfile(file, io.BytesIO(b"x"))
    return buffer.getvalue()


BOMB = {"zeros": b"\0" * 4_000_000}  # to a thousandth


HOSTILE |= {
    "tar link then write": (link_then_write(), "is a link or a device"),
    "tar block device": (tar_of({"evil": b""}, type=tarfile.BLKTYPE), "is a link or a device"),
    "tar twice": (tar_of({"a": b"x", "./a": b"y"}), "occurs twice"),
    "zip device": (zip_of({"evil": b""}, mode=stat.S_IFBLK | 0o600), "is a link or a device"),
    "zip bomb": (zip_of(BOMB), "more than 200 times its size, as a bomb does"),
    "tar bomb": (tar_of(BOMB), "more than 200 times its size, as a bomb does"),
    "bomb in parts": (zip_of({str(part): b"\0" * 400_000 for part in range(10)}), "as a bomb does"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_and_write_nothing_outside(server, tmp_path, monkeypatch, case):
    monkeypatch.setattr("detcore.data.sources.archives.LEAST_ROOM_BYTES", 1000)
    data, message = HOSTILE[case]
    server.files["x"] = data
    source = Archives(archives=(Archive(url=server.url("x"), sha256=sha256(data)),))
    with pytest.raises(ValueError, match=message):
        fetch_archives(tmp_path / "below" / "root", source, progress=False)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"below/root.downloads/0-x"}


def test_archives_appear_as_one_folder_when_all_are_there(server, tmp_path):
    images, labels = zip_of({"images/a.jpg": b"jpeg"}), tar_of({"a.json": b"{}"})
    server.files["images.zip"] = images
    source = Archives(
        archives=(
            Archive(url=server.url("images.zip"), sha256=sha256(images)),
            Archive(url=server.url("labels%20v1.tgz"), sha256=sha256(labels), folder="annotations"),
        )
    )
    config = data_config(tmp_path / "root", tmp_path / "shards", source=source)
    with pytest.raises(ValueError, match="404"):
        obtain(config, progress=False)
    assert not (tmp_path / "root").exists()
    server.files["labels%20v1.tgz"] = labels
    assert obtain(config, progress=False) == tmp_path / "root"
    assert (tmp_path / "root" / "images" / "a.jpg").read_bytes() == b"jpeg"
    assert (tmp_path / "root" / "annotations" / "a.json").read_bytes() == b"{}"
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path for path, _ in server.requests].count("/images.zip") == 1  # what was there was not fetched again
    requests = len(server.requests)
    (tmp_path / "empty").mkdir()
    assert (obtain(config.model_copy(update={"root": str(tmp_path / "empty")}), progress=False) / "images").is_dir()
    assert len(server.requests) == requests + 2
    requests += 2
    obtain(config, progress=False)
    assert len(server.requests) == requests


def test_archives_within_archives_are_unpacked_where_they_lie(server, tmp_path):
    inner = zip_of({"panoptic_val/a.png": b"png"})
    outer = zip_of({"annotations/panoptic_val.zip": inner, "annotations/panoptic_val.json": b"{}"})
    server.files["outer.zip"] = outer

    def archive(*names):
        return Archives(archives=(Archive(url=server.url("outer.zip"), sha256=sha256(outer), inner=names),))

    with pytest.raises(ValueError, match=r"outer\.zip: holds no annotations/other\.zip"):
        fetch_archives(tmp_path / "raw", archive("annotations/other.zip"), progress=False)
    fetch_archives(tmp_path / "raw", archive("annotations/panoptic_val.zip"), progress=False)
    found = sorted(str(path.relative_to(tmp_path / "raw")) for path in (tmp_path / "raw").rglob("*") if path.is_file())
    assert found == ["annotations/panoptic_val.json", "annotations/panoptic_val/a.png"]


def write_sums(path, files):
    path.write_text("".join(f"{sha256(data)}  {name}\n" for name, data in files.items()))


def test_files_are_fetched_and_checked_one_by_one(server, tmp_path, monkeypatch):
    files = {f"BCCD/a {n}.xml": str(n).encode() * 1000 for n in range(30)}
    server.files = {f"at/commit/{name.replace(' ', '%20')}": data for name, data in files.items()}
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text("")
    write_sums(conf / "list.sha256", files)
    monkeypatch.setenv("DETCORE_CONF", str(conf))
    source = Files(base_url=server.url("at/commit/"), sums="list.sha256")
    config = data_config(tmp_path / "root", tmp_path / "shards", source=source)
    bad = "at/commit/BCCD/a%207.xml"
    good = server.files[bad]
    server.files[bad] = b"changed"
    with pytest.raises(ValueError, match=r"a%207\.xml: SHA-256 is"):
        obtain(config, progress=False)
    assert not (tmp_path / "root").exists()
    server.files[bad] = good
    obtain(config, progress=False)
    assert {name: (tmp_path / "root" / name).read_bytes() for name in files} == files
    assert max(sum(path == f"/{name}" for path, _ in server.requests) for name in server.files if name != bad) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{'0' * 64}  ../evil\n", "could lead out"),
        (f"{'0' * 64}  /etc/passwd\n", "could lead out"),
        (f"{'0' * 63}  a\n", "list:1: not a SHA-256 and a path"),
        ("", "lists no files"),
    ],
)
def test_lists_are_checked(tmp_path, text, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_sums(tmp_path / "list")
    with pytest.raises(ValueError, match="no such list"):
        fetch_files(tmp_path / "root", Files(base_url="http://x", sums=""), sums=tmp_path / "lost", progress=False)


def test_a_folder_that_is_there_is_taken_as_it_is(server, tmp_path):
    write_coco(tmp_path / "root", images=1)
    source = Archives(archives=(Archive(url=server.url("x"), sha256=""),))
    assert obtain(data_config(tmp_path / "root", tmp_path / "s", source=source)) == tmp_path / "root"
    assert server.requests == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        obtain(data_config(tmp_path / "file", tmp_path / "s"))


def test_the_recorded_sums_of_bccd_are_those_of_the_local_copy(shared, repository):
    folder = shared / "data" / "bccd"
    sums = read_sums(repository / "conf" / "data" / "bccd.sha256")
    assert len(sums) == 364 * 2 + 4 + 1  # images, annotations, lists, licence
    assert {sha256((folder / path).read_bytes()) for path in sums} == set(sums.values())
