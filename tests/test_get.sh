#!/usr/bin/env bash
# test_get.sh - data/get against a small web server of our own: whole, resumed, wrong, absent and unwritable downloads.
#
#   tests/test_get.sh        (about five seconds; needs python3 and curl, says so and passes where they are missing)
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
for need in python3 curl; do
    if ! command -v $need >/dev/null || ! $need --version >/dev/null 2>&1; then
        echo "skipped: no $need here"
        exit 0
    fi
done
work=$(mktemp -d "${TMPDIR:-/tmp}/tea-test-get-XXXXXX")
mkdir "$work/www"
server='' passed=0 failed=0
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT

# Serves www with ranges; notes each request. /cut/NAME breaks off in the middle, /norange/NAME knows no ranges.
cat >"$work/server.py" <<'PY'
import http.server, os, sys
www, log, port_file = sys.argv[1:4]

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        mode, name = os.path.split(self.path.lstrip("/"))
        with open(log, "a") as f:
            print(self.path, asked or "-", file=f)
        try:
            with open(os.path.join(www, name), "rb") as f:
                data = f.read()
        except OSError:
            return self.send_error(404)
        total = len(data)
        begin = int(asked.split("=")[1].split("-")[0]) if asked and mode != "norange" else 0
        if begin and begin >= total:
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (begin, total - 1, total))
        self.send_header("Content-Length", str(total - begin))
        self.end_headers()
        self.wfile.write(data[begin:] if mode != "cut" else data[begin:begin + (total - begin) // 2])

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(port_file + ".new", "w") as f:
    print(server.server_address[1], file=f)
os.rename(port_file + ".new", port_file)
server.serve_forever()
PY
python3 "$work/server.py" "$work/www" "$work/log" "$work/port" &
server=$!
for _ in $(seq 100); do [ ! -s "$work/port" ] || break; sleep 0.1; done
[ -s "$work/port" ] || { echo "FAIL  the test's own server does not start"; exit 1; }
base=http://127.0.0.1:$(cat "$work/port")

check() { # what, then a command that must succeed
    local what=$1
    shift
    if "$@"; then passed=$((passed + 1)); echo "ok    $what"
    else failed=$((failed + 1)); echo "FAIL  $what"; sed 's/^/      /' "$work/out"; fi
}
get() { # the exit code wanted, then the arguments
    local want=$1 rc=0
    shift
    "$root/data/get" "$@" >"$work/out" 2>&1 || rc=$?
    [ $rc = "$want" ]
}
said() { grep -qF -- "$1" "$work/out"; }
absent() { [ ! -e "$1" ]; }
lines() { [ "$(wc -l <"$1")" -eq "$2" ]; }
asked() { tail -n 1 "$work/log" | grep -qxF -- "$1"; }

cd "$work" || exit 1
seq 1 20000 >www/gsm8k_train.jsonl
seq 1 3000 >www/gsm8k_test.jsonl
seq 1 5000 >www/alpaca_data_cleaned.json
echo "not the real thing" >www/tinyshakespeare.txt
for i in val_000000 train_000001 train_000002; do echo "$i" >"www/finewebedu_$i.bin"; done

check "list names every set" get 0 list
for set in tinyshakespeare tinystories fineweb-edu gsm8k alpaca; do check "  $set" said "$set"; done
check "--help prints the head" get 0 --help
check "  with its commands" said "--shards 4"
check "no set: wrong usage, exit 2" get 2
check "an unknown set is named" get 2 shakespear
check "  beside those there are" said "tinyshakespeare tinystories"
check "an option without its value" get 2 alpaca --dir
check "a shard count that is none" get 2 fineweb-edu --shards many

check "whole: gsm8k" get 0 gsm8k --dir d --base-url "$base"
check "  both files as served" cmp d/gsm8k_train.jsonl www/gsm8k_train.jsonl
check "  the licence is shown" said "licence: MIT"
check "  two hashes noted" lines d/get.sha256 2
check "  no part left" absent d/gsm8k_train.jsonl.part
check "again: nothing to fetch" get 0 gsm8k --dir d --base-url "$base"
check "  said so" said "already here"

head -c 50000 www/gsm8k_train.jsonl >d/gsm8k_train.jsonl.part
rm d/gsm8k_train.jsonl
check "resumed from a part" get 0 gsm8k --dir d --base-url "$base"
check "  asking for the rest only" asked "/gsm8k_train.jsonl bytes=50000-"
check "  and whole" cmp d/gsm8k_train.jsonl www/gsm8k_train.jsonl

check "broken off: exit 1" get 1 alpaca --dir d --base-url "$base/cut"
check "  the part is kept and named" said "alpaca_data_cleaned.json.part"
check "  nothing under the final name" absent d/alpaca_data_cleaned.json
check "  the same command goes on" get 0 alpaca --dir d --base-url "$base"
check "  and whole" cmp d/alpaca_data_cleaned.json www/alpaca_data_cleaned.json

rm d/alpaca_data_cleaned.json
head -c 7000 www/alpaca_data_cleaned.json >d/alpaca_data_cleaned.json.part
check "a server without ranges: from the start" get 0 alpaca --dir d --base-url "$base/norange"
check "  and whole" cmp d/alpaca_data_cleaned.json www/alpaca_data_cleaned.json
mv d/alpaca_data_cleaned.json d/alpaca_data_cleaned.json.part
check "a part as long as the file: from the start" get 0 alpaca --dir d --base-url "$base"
check "  and whole" cmp d/alpaca_data_cleaned.json www/alpaca_data_cleaned.json

check "another hash than the table's: exit 1" get 1 tinyshakespeare --dir d --base-url "$base"
check "  both hashes named: the wanted" said 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
check "  and the found" said "$(python3 -c \
    'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' www/tinyshakespeare.txt)"
check "  nothing under the final name" absent d/tinyshakespeare.txt
check "  the file set aside" test -f d/tinyshakespeare.txt.wrong
seq 1 3001 >www/gsm8k_test.jsonl
rm d/gsm8k_test.jsonl
check "another hash than the one noted: exit 1" get 1 gsm8k --dir d --base-url "$base"
check "  the notes are named" said "d/get.sha256 says"
echo tampered >>d/alpaca_data_cleaned.json
check "a file changed on disk is noticed" get 1 alpaca --dir d --base-url "$base"

check "404: exit 1" get 1 tinystories --dir d --base-url "$base"
check "  said so" said "answered 404"
check "  no empty part left" absent d/TinyStoriesV2-GPT4-train.txt.part
printf begun >d/TinyStoriesV2-GPT4-train.txt.part
check "404 after a good start: exit 1" get 1 tinystories --dir d --base-url "$base"
check "  the part survives" test -s d/TinyStoriesV2-GPT4-train.txt.part

check "two shards and the validation shard" get 0 fineweb-edu --shards 2 --dir s --base-url "$base"
check "  three files" test -f s/finewebedu_val_000000.bin -a -f s/finewebedu_train_000002.bin
check "no server: exit 1" get 1 alpaca --dir n --base-url http://127.0.0.1:1

check "a file where the directory should be: exit 1" get 1 alpaca --dir "$work/port/sub" --base-url "$base"
check "  said so" said "cannot make this directory"
mkdir ro && chmod 555 ro
if touch ro/x 2>/dev/null; then rm -f ro/x; echo "      read-only directory: not tested, this user may write anywhere"
else check "a read-only directory: exit 1" get 1 alpaca --dir ro --base-url "$base"; fi
# A limit on the size of files stands in for a full disk: the write fails in the same place.
full() { (ulimit -f 8; trap '' XFSZ; get 1 gsm8k --dir full --base-url "$base"); }
check "no space: exit 1" full
check "  said so" said "is the disk full?"
check "  nothing under the final name" absent full/gsm8k_train.jsonl

echo "$passed passed, $failed failed"
[ $failed = 0 ]
