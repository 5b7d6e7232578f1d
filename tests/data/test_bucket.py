"""Objects in buckets, on emulators of both services."""

import contextlib
import http.server
import pathlib
import threading
import time

import numpy as np
import pytest

import miue_jax as mj
from miue_jax.data import atomic, bucket
from miue_jax.data.bucket import Address


@pytest.mark.parametrize(
    "text", ["s3://", "s3://bucket", "gs://bucket/", "s3:///runs", "gs://b/a//c"]
)
def test_an_address_names_a_bucket_and_something_in_it(text):
    with pytest.raises(ValueError, match=r"allowed: (s3|gs)://bucket/name"):
        bucket.place(text)


@pytest.mark.parametrize("text", ["s3://b/a?versionId=3", "gs://b/a#12", "s3://b/?"])
def test_versions_of_objects_are_not_named(text):
    with pytest.raises(ValueError, match=r"allowed: names without \? and #"):
        bucket.place(text)


@pytest.mark.parametrize(
    "given",
    ["s3:/runs/a", "S3://b/a", "http://host/a", "file:///a", pathlib.Path("gs://b/a")],
)
def test_other_addresses_are_not_taken_for_folders(given, tmp_path, monkeypatch, miue):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="allowed: a local path"):
        bucket.place(given)
    status, _, errors = miue(
        *("protect", "shapes", "--data.per-class", 2, "--generator", "random_noise"),
        *("--workdir", given, "--quiet"),
    )
    assert (status, errors.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])


def test_paths_stay_paths():
    assert bucket.place("runs/s3:/a") == pathlib.Path("runs/s3:/a")
    assert not bucket.is_address("http://host/x")


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs")])
def test_what_is_not_installed_is_named(scheme, extra, monkeypatch):
    monkeypatch.setattr(bucket.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install miue_jax\[{extra}\]"):
        bucket.place(f"{scheme}://bucket/run")


def test_addresses_are_joined_like_paths():
    run = Address("gs", "bucket/runs") / "a/protected.npz"
    assert str(run) == "gs://bucket/runs/a/protected.npz"
    assert (run.name, run.suffix, run.bucket) == ("protected.npz", ".npz", "bucket")
    assert str(run.parent) == "gs://bucket/runs/a"
    assert run.with_suffix(".delta.npy").name == "protected.delta.npy"


def test_an_object_is_created_once(remote):
    before = time.time()
    assert bucket.create(remote / "lock", b"first")
    assert not bucket.create(remote / "lock", b"second")
    assert (remote / "lock").read_bytes() == b"first"
    # The same writer, whose first answer was lost.
    assert bucket.create(remote / "lock", b"first")
    assert abs((remote / "lock").stat().st_mtime - before) < 5


def test_of_several_writers_one_creates_an_object(remote):
    won = []

    def write(number):
        if bucket.create(remote / "lock", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (remote / "lock").read_bytes() == b"%d" % won[0]


def test_files_come_and_go(remote, tmp_path):
    with atomic.write_file(remote / "a/b.bin") as file:
        file.write(b"data")
    assert (remote / "a/b.bin").exists()
    assert (remote / "a").is_dir()
    assert not (remote / "b").exists()
    assert {k: v.st_size for k, v in bucket.listing(remote).items()} == {"a/b.bin": 4}
    assert list(bucket.listing(remote / "a/b.bin")) == [""]
    with bucket.local(remote) as copy:
        assert (copy / "a/b.bin").read_bytes() == b"data"
    assert not copy.exists()
    (remote / "a/b.bin").unlink()
    (remote / "a/b.bin").unlink(missing_ok=True)
    assert bucket.listing(remote) == {}


def test_a_failed_write_leaves_nothing(remote):
    with contextlib.suppress(RuntimeError), atomic.write_file(remote / "x") as file:
        file.write(b"data")
        raise RuntimeError
    with contextlib.suppress(RuntimeError), atomic.write_folder(remote / "y") as folder:
        (folder / "0.png").write_bytes(b"data")
        raise RuntimeError
    assert bucket.listing(remote) == {}


def test_data_are_read_from_buckets(remote, tmp_path):
    clean = mj.data.load("shapes", per_class=2)
    arrays = {"images": clean.images, "labels": clean.labels}
    np.savez(tmp_path / "data.npz", **arrays)
    bucket.put(tmp_path / "data.npz", remote / "data.npz")
    loaded = mj.data.load(str(remote / "data.npz"))
    np.testing.assert_array_equal(loaded.images, clean.images)
    with pytest.raises(ValueError, match=f"{remote}/other.npz: no such file or folder"):
        mj.data.load(str(remote / "other.npz"))


def test_folders_of_images_are_read_from_buckets(remote, tmp_path, miue):
    run, png = tmp_path / "run", remote / "png"
    clean = mj.data.load("shapes", per_class=2)
    made = mj.protect(clean, "random_noise", workdir=run)
    status, _, errors = miue("export", run / "protected.npz", "--png", png)
    assert (status, errors) == (0, "")
    loaded = mj.data.load(str(png))
    assert sorted(map(bytes, loaded.images)) == sorted(map(bytes, made.dataset.images))
    status, _, errors = miue("export", run / "protected.npz", "--png", png)
    assert status == 2
    assert errors == f"miue export: {png}: exists and is not an empty folder\n"


def test_a_damaged_file_is_named_by_its_address(remote, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"nothing")
    bucket.put(tmp_path / "x.npz", remote / "x.npz")
    with pytest.raises(ValueError, match=f"^{remote}/x.npz: "):
        mj.data.load(str(remote / "x.npz"))


def test_a_missing_bucket_is_named(remote, tmp_path):
    other = Address(remote.scheme, "no-such-bucket/runs")
    (tmp_path / "x").write_bytes(b"")
    for call in (
        lambda: bucket.listing(other),
        lambda: bucket.create(other, b""),
        lambda: bucket.put(tmp_path / "x", other),
    ):
        with pytest.raises(OSError, match="there is no bucket no-such-bucket"):
            call()


def _answering(status: int, text: str):
    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text.encode())

        do_GET = do_HEAD = do_POST = do_PUT = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


_DENIED = {
    "s3": "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "gs": '{"error": {"code": 403, "message": "no access to the bucket"}}',
}


@pytest.fixture
def endpoint(remote, monkeypatch):
    """Sends what is meant for the bucket to another address."""
    variable = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}

    def change(url: str) -> None:
        monkeypatch.setenv(variable[remote.scheme], url)
        bucket._file_system(remote.scheme).clear_instance_cache()

    yield change
    bucket._file_system(remote.scheme).clear_instance_cache()


def test_refused_credentials(remote, endpoint):
    with _answering(403, _DENIED[remote.scheme]) as server:
        endpoint(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(OSError, match=f"^{remote}: access is refused") as caught:
            bucket.listing(remote)
        server.shutdown()
    assert "\n" not in str(caught.value)


def test_missing_credentials(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    bucket._file_system("s3").clear_instance_cache()
    with pytest.raises(OSError, match=r"access is refused \(.*credentials"):
        bucket.listing(Address("s3", "bucket/runs"))
    bucket._file_system("s3").clear_instance_cache()


def test_an_endpoint_that_cannot_be_reached(remote, endpoint, monkeypatch):
    monkeypatch.setattr(bucket, "_SECONDS_TO_ANSWER", 3.0)
    endpoint("http://127.0.0.1:9")
    with pytest.raises(OSError, match=f"^{remote}: cannot be reached") as caught:
        bucket.listing(remote)
    assert "\n" not in str(caught.value)
