#!/usr/bin/env bash
# run.sh [CASE…] [OPTION…]: embeval and its peers in turn on the same data, as Markdown tables; run.py says which cases and options.
#
# PEER is a folder that tests/peers/setup.sh filled and where requirements.txt is installed, too; without it, both happen here in
# target/peer. BINARY defaults to target/release/embeval, THREADS to 2, ROUNDS to 3; WORK is where the temporary folder goes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${PEER:-}" ]; then
    export PEER=$root/target/peer
    echo "peers: in $PEER, installed if they are not there (some 6 GB); PEER=FOLDER names others" >&2
    "$root/tests/peers/setup.sh" "$PEER" >&2
    "$PEER/venv/bin/python" -m pip --disable-pip-version-check install --quiet -r "$here/requirements.txt" >&2
fi
python=$PEER/venv/bin/python
[ -x "$python" ] || { echo "error: $python: not there; run tests/peers/setup.sh FOLDER and set PEER=FOLDER, or leave PEER unset" >&2; exit 2; }
exec "$python" "$here/run.py" "$@"
