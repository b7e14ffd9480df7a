# test_chat.sh - ./infer --chat at a terminal: a line editor that knows Chinese, Ctrl-C, Ctrl-D, the history file.
#
#     BUILD=build/gcc bash tests/test_chat.sh
#
# The terminal is Python's pty; without python3 the test is skipped.
: "${BUILD:?say which build to test}"
command -v python3 >/dev/null || { echo "no python3, which plays the terminal"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
export OMP_NUM_THREADS=1 dir ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}" # a program's end frees its memory
echo "The old fox went to the river. It saw a boat and was glad." >"$dir/text.txt"
"$BUILD/train" --data "$dir/text.txt" --layers 1 --width 32 --heads 2 --steps 1 --warmup 0 --seq 16 --batch 1 --vocab 300 \
    --valid-fraction 0 --out "$dir/model" --quiet >/dev/null 2>"$dir/err" || { cat "$dir/err"; echo "cannot make a model"; exit 1; }
exec python3 - "$BUILD/infer" <<'PY'
import os, pty, select, signal, stat, sys, time
infer, where = sys.argv[1], os.environ["dir"]
passed = failed = 0

def check(ok, what):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print("ok   " if ok else "FAIL ", what, "" if ok else ascii(t.seen[-300:]), flush=True)

class Terminal:
    def __init__(self, *options):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ["TERM"] = "xterm"
            os.environ["LC_ALL"] = "C"              # a bare container; characters must be whole all the same
            os.execv(infer, [infer, "--chat", "--model", where + "/model", "--temperature", "1", *options])
        self.seen = b""
    def until(self, text, seconds=60):              # waits for it behind what it waited for before
        end = time.time() + seconds
        while text not in self.seen and time.time() < end:
            if select.select([self.fd], [], [], 0.1)[0]:
                try: self.seen += os.read(self.fd, 65536)
                except OSError: break               # the program has left
        found = text in self.seen
        if found: self.seen = self.seen.split(text, 1)[1]
        return found
    def ready(self):                                # a prompt; the editor takes the terminal over a moment later
        self.until(b"\n> "), time.sleep(0.5)
    def type(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())
    def code(self, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid: return os.waitstatus_to_exitcode(status)
            self.until(b"\0never\0", 0.1)
        os.kill(self.pid, signal.SIGKILL)
        return "hangs"

edited = b"libedit" in open(infer, "rb").read()
history, saved = where + "/history", where + "/saved.jsonl"
t = Terminal("--n", "5", "--ignore-eos", *(["--history", history] if edited else []))
check(t.until(b"> "), "a prompt")
time.sleep(0.5)
if edited:
    t.type("你好吗\x7f\x7f吧\n")
    check(t.until(b"ended by length]"), "an answer")
    t.ready()
    t.type("dropped\x03")
    time.sleep(0.5)
    t.type("kept\n")
else:
    t.type("你吧\n")
    check(t.until(b"ended by length]"), "an answer")
    t.ready()
    t.type("dropped\x03"), t.ready()
    t.type("kept\n")
check(t.until(b"ended by length]"), "Ctrl-C at the prompt does not end the program")
t.ready()
t.type(f"/save {saved}\n")
check(t.until(b"4 messages"), "/save")
text = open(saved, encoding="utf-8").read()
check('"content":"你吧"' in text, "a backspace takes a whole character: " + text[:50])
check('"content":"kept"' in text and "dropped" not in text, "Ctrl-C drops the line")
t.ready()
t.type("\x04")
check(t.code() == 0, "Ctrl-D leaves with exit 0")
if edited:
    check("kept" in open(history, encoding="utf-8").read(), "--history keeps what was typed")
    check(stat.S_IMODE(os.stat(history).st_mode) & 0o77 == 0, "for its owner alone")

t = Terminal("--context", "1000000", "--ignore-eos")
t.ready()
t.type("Hello\n")
t.until(b"Hello\r\n"), time.sleep(1)
t.type("\x03")
check(t.until(b"ended by interrupted]"), "Ctrl-C stops an answer")
t.ready()
t.type(f"/save {saved}\n")
check(t.until(b"2 messages"), "and not the program; what was said stays")
t.ready()
t.type("/retry\n")
time.sleep(1)
t.type("\x03")
check(t.until(b"ended by interrupted]"), "as often as one likes")
t.ready()
t.type("/exit\n")
check(t.code() == 0, "/exit leaves with exit 0")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
PY
