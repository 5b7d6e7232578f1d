#!/usr/bin/env bash
# gcp-storage-emulator 2026.7.19 with google-cloud-storage 3.17.1: conditions on the
# generation of an object are ignored.
#
# Expected: an upload with ifGenerationMatch=0 creates an object only if there is none;
# where there is one, the service answers 412 and keeps it. Locks that are made of
# objects rest on this.
# Seen: the second such upload is answered with success, and overwrites the first. So a
# lock that two processes take at once is given to both, and a test of it on this
# emulator passes or fails for the wrong reason.
#
# Exits 0 while this is so, and 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gcp-storage-emulator==2026.7.19 google-cloud-storage==3.17.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import socket
import sys

from gcp_storage_emulator.server import create_server

with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
server = create_server("localhost", port, in_memory=True, default_bucket="locks")
server.start()
os.environ["STORAGE_EMULATOR_HOST"] = f"http://localhost:{port}"

from google.api_core.exceptions import PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

client = storage.Client(project="test", credentials=AnonymousCredentials())
blob = client.bucket("locks").blob("lock")
blob.upload_from_string("first", if_generation_match=0)
try:
    blob.upload_from_string("second", if_generation_match=0)
    refused = False
except PreconditionFailed:
    refused = True
content = blob.download_as_text()
server.stop()
print("second upload with if_generation_match=0:", "412" if refused else "accepted")
print("the object now holds:", content)
changed = refused or content != "second"
print("changed since it was written down" if changed else "as it was written down")
sys.exit(changed)
PYTHON
