# shellcheck shell=sh
# What every scenario uses inside the guest: one line a check, and the reason where it failed.
# A scenario begins with `. /lab/guest.sh` and ends with `finish`. $SCENARIO is its name.

HOST_ID=11111111-2222-3333-4444-555555555555
HOST_NQN=nqn.2014-08.org.nvmexpress:uuid:$HOST_ID
LOG=/tmp/log
OPTIONS=
: >/tmp/failures

ok() { echo "ok $SCENARIO.$1"; }
skip() { echo "skip $SCENARIO.$1: $2"; }
# The last command and what it printed follow the line, indented.
fail() {
  echo "FAIL $SCENARIO.$1: $2"
  echo "$1" >>/tmp/failures
  tail -n 25 $LOG 2>/dev/null | sed 's/^/    | /'
}

# Runs a command for at most SECONDS, its output (and itself) into $LOG; the status is left in $status:
# 137 when the time ran out. (SIGKILL, because doorbell ends in good order on SIGTERM. The whole path, because
# busybox takes its own applet of a name before a program of that name.)
run() { # SECONDS COMMAND…
  limit=$1; shift
  echo "+ $*" >$LOG
  if [ -x "/bin/$1" ]; then command=/bin/$1; shift; set -- "$command" "$@"; fi
  timeout -s KILL "$limit" "$@" >>$LOG 2>&1 </dev/null
  status=$?
  [ $status != 137 ] || echo "killed by the lab after $limit s" >>$LOG
  return $status
}

# Passes when the command (which may be a function) succeeds.
check() { # NAME COMMAND…
  name=$1; shift
  if "$@"; then ok "$name"; else fail "$name" "status $?: $*"; return 1; fi
}

# The same for what the rest of the scenario stands on: ends the scenario when it fails.
need() { # NAME COMMAND…
  check "$@" || { echo "the rest of $SCENARIO was not run"; finish; }
}

# Passes when the command ends by itself, with a status other than 0, and says something that matches PATTERN.
check_refused() { # NAME SECONDS PATTERN COMMAND…
  name=$1 seconds=$2 pattern=$3; shift 3
  run "$seconds" "$@"
  if [ $status = 0 ]; then fail "$name" "succeeded: $*"
  elif [ $status = 137 ]; then fail "$name" "still running after $seconds s: $*"
  elif [ $status -ge 128 ] || grep -q 'panicked at' $LOG; then fail "$name" "crashed, status $status: $*"
  elif ! grep -qiE "$pattern" $LOG; then fail "$name" "status $status but nothing said about /$pattern/: $*"
  else ok "$name"; fi
}

# Passes when the last command said something that matches PATTERN.
said() { check "$1" grep -qE "$2" $LOG; } # NAME PATTERN

# Waits until the command succeeds; output thrown away.
wait_for() { # SECONDS COMMAND…
  tries=$(($1 * 5)); shift
  while [ $tries -gt 0 ]; do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.2; tries=$((tries - 1))
  done
  echo "waited in vain for: $*" >>$LOG
  return 1
}

ended() { ! kill -0 "$1" 2>/dev/null; }
listening() { ss -Hltn "sport = :$1" | grep -q .; }

# Files of random bytes in several sizes (small ones, odd ones, large ones) and their checksums in SUMS.
make_tree() { # FOLDER MEBIBYTES
  mkdir -p "$1/a/b/c" "$1/empty"
  i=0
  while [ $i -lt 40 ]; do
    dd if=/dev/urandom of="$1/a/b/c/small$i" bs=$((i * 997 + 1)) count=1 2>/dev/null
    i=$((i + 1))
  done
  i=0
  while [ $i -lt "$2" ]; do
    dd if=/dev/urandom of="$1/a/large$i" bs=1M count=4 2>/dev/null
    i=$((i + 4))
  done
  (cd "$1" && find . -type f -exec sha256sum {} + >/tmp/SUMS)
}

# The same checksums below FOLDER, read from the device and not from the page cache.
same_tree() { # FOLDER
  echo "+ sha256sum -c in $1" >$LOG
  sync
  echo 3 >/proc/sys/vm/drop_caches
  (cd "$1" && sha256sum -c /tmp/SUMS >/tmp/sha 2>&1)
  status=$?
  [ $status = 0 ] || { grep -v ': OK$' /tmp/sha | head -n 10; dmesg | tail -n 10; } >>$LOG
  return $status
}

# Passes when perf ends well and its table has a Total with more than 0 IOPS.
perf() { # NAME PERF-OPTION…
  name=$1; shift
  run 90 doorbell perf "$@"
  if [ $status != 0 ]; then fail "$name" "status $status: doorbell perf $*"
  elif ! total; then fail "$name" "no Total with IOPS above 0: doorbell perf $*"
  else ok "$name"; return; fi
  return 1
}
# Rows of the table; what a run says of its own numbers names them too.
rows() { grep -v '^Audit' $LOG | grep -c 'from core'; }
total() { awk '$1 == "Total" && $2 == ":" && $3 > 0 && NF == 7 {found = 1} END {exit !found}' $LOG; }

# Starts a long run on $ONE (with $OPTIONS), does something to the target, and looks how the run ends: by itself, in time.
interrupted() { # NAME ZERO|NON-ZERO|ANY COMMAND…
  name=$1 want=$2; shift 2
  echo "+ doorbell perf during: $*" >$LOG
  # shellcheck disable=SC2086
  doorbell perf -r "$ONE" -q 32 -o 4096 -w randrw -M 50 -t 120 -c 0x1 $OPTIONS >>$LOG 2>&1 & pid=$!
  wait_for 20 grep -q 'Launching workers' $LOG
  sleep 2
  if ended $pid; then fail "$name" "ended before: $*"; wait $pid; return; fi
  "$@"
  if ! wait_for 30 ended $pid; then
    fail "$name" "still running 30 s after: $*"
    kill -9 $pid; wait $pid
    return
  fi
  wait $pid; status=$?
  if [ $status -ge 128 ] || grep -q 'panicked at' $LOG; then fail "$name" "crashed, status $status"
  elif [ $want = NON-ZERO ] && [ $status = 0 ]; then fail "$name" "status 0 after: $*"
  elif ! total; then fail "$name" "no results so far after: $*"
  else ok "$name"; fi
}

# 32 MiB that nothing else holds.
make_random() { dd if=/dev/urandom of=/tmp/random bs=1M count=32 2>/dev/null; }
# What perf wrote from the beginning of a device that held /tmp/random before: every unit of SIZE bytes of the first COUNT holds one value from 1 to 8, all of them occur, and what follows is as before.
# od prints a row only where it differs from the one before.
written() { # DEVICE COUNT SIZE
  echo "+ what $1 holds after $2 writes of $3 bytes" >$LOG
  dd if="$1" of=/tmp/seen bs=1M count=32 iflag=direct 2>>$LOG
  head -c $(($2 * $3)) /tmp/seen | od -Ad -tx1 -w16 | awk -v size="$3" '
    $1 == "*" || NF == 1 {next}
    { sub(/^0+/, "", $1) }      # this awk takes a leading zero for octal
    { for (i = 3; i <= NF; i++) if ($i != $2) {print "mixed bytes at " $0; bad = 1; exit}
      if ($1 % size) {print "a change inside a unit at " $0; bad = 1; exit}
      if ($2 !~ /^0[1-8]$/) {print "a foreign byte at " $0; bad = 1; exit}
      values[$2]; seen = 1 }
    END { for (v in values) n++; if (!bad && seen && n != 8) {print n " values"; bad = 1}; exit bad }' >>$LOG || return 1
  tail -c +$(($2 * $3 + 1)) /tmp/random >/tmp/rest
  tail -c +$(($2 * $3 + 1)) /tmp/seen | cmp - /tmp/rest >>$LOG 2>&1
}

finish() { [ ! -s /tmp/failures ]; exit; }
