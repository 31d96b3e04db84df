# shellcheck shell=sh
# The kernel's NVMe host against `doorbell target`. The scenario sets TRANSPORT (tcp or rdma), ADDRESS and LISTEN (what --listen takes)
# and has a function ready(), which succeeds when the target listens at port 4420.

NQN=nqn.2024-01.lab:doorbell
TARGET=

# Starts `doorbell target` with the options and waits until it listens.
start() {
  doorbell target "$@" --listen $LISTEN --nqn $NQN >>/tmp/target 2>&1 &
  TARGET=$!
  if ! wait_for 20 ready; then cat /tmp/target >>$LOG; return 1; fi
}
# Ends it in good order.
stop() {
  kill $TARGET
  wait_for 20 ended $TARGET || { kill -9 $TARGET; return 1; }
  wait $TARGET
}

connect() { # OPTION…
  run 60 nvme connect -t $TRANSPORT -a $ADDRESS -s 4420 -n $NQN --hostnqn=$HOST_NQN --hostid=$HOST_ID --reconnect-delay=1 "$@" || return
  wait_for 20 find_device || return
  [ "$(state)" = live ]
}
disconnect() { run 60 nvme disconnect -n $NQN; }

# Sets CTRL (nvme0, counting up from connection to connection) and DEV (/dev/nvme0n1).
find_device() {
  CTRL='' DEV=''
  for c in /sys/class/nvme/nvme*; do
    [ "$(cat $c/subsysnqn 2>/dev/null)" != $NQN ] || CTRL=${c##*/}
  done
  [ -n "$CTRL" ] || return 1
  for d in /sys/block/nvme*n1; do
    case $(readlink -f $d/device 2>/dev/null) in
      */$CTRL | */nvme-subsys*) DEV=/dev/${d##*/} ;;
    esac
  done
  [ -b "$DEV" ]
}
state() { cat /sys/class/nvme/$CTRL/state; }
live() { [ "$(state)" = live ]; }
queues() { cat /sys/class/nvme/$CTRL/queue_count; }

# Writes SIZE random bytes at each of several offsets with blocks of that size, and reads them back.
blocks() { # BLOCK-SIZE
  n=0
  : >$LOG
  while [ $n -lt 5 ]; do
    head -c $((${1%k} * 1024 * 4)) /dev/urandom >/tmp/w
    dd if=/tmp/w of=$DEV bs=$1 seek=$((n * 7)) oflag=direct conv=notrunc 2>>$LOG || return 1
    dd if=$DEV of=/tmp/r bs=$1 skip=$((n * 7)) count=4 iflag=direct 2>>$LOG || return 1
    cmp /tmp/w /tmp/r >>$LOG 2>&1 || return 1
    n=$((n + 1))
  done
}

zeroes() { # COMMAND…: what the command was given to clear reads as zeroes
  dd if=/dev/urandom of=$DEV bs=1M count=4 oflag=direct conv=notrunc 2>/dev/null
  run 60 "$@" || return
  dd if=$DEV bs=1M count=4 iflag=direct 2>>$LOG | cmp -n 4194304 - /dev/zero >>$LOG 2>&1
}

# --- a file system on it, and breaking what is below while it writes

mkdir -p /mnt/fs
make_fs() { run 120 mkfs.ext4 -q -F $DEV && run 30 mount $DEV /mnt/fs; }
unmount() { run 120 umount /mnt/fs; }
clean() { run 120 e2fsck -fn $DEV; }
copy() { run 300 cp -r /tmp/tree /mnt/fs/$1; }

# Copies the tree over and over, in the background, until told to stop.
writer() {
  rm -f /tmp/stop /tmp/writer-failed
  (
    n=0
    while [ ! -e /tmp/stop ]; do
      if ! cp -r /tmp/tree /mnt/fs/w || ! sync; then touch /tmp/writer-failed; break; fi
      rm -rf /mnt/fs/last
      mv /mnt/fs/w /mnt/fs/last
      n=$((n + 1)); echo $n >/tmp/rounds
    done
  ) >>/tmp/writer 2>&1 &
  WRITER=$!
  wait_for 20 busy
}
busy() { cat /sys/block/nvme*/stat | awk '{n += $9} END {exit n == 0}'; }

# Breaks something while commands are outstanding; the host must come back, the writer must not notice.
broken() { # NAME TIMES COMMAND…
  name=$1 times=$2; shift 2
  writer
  while [ $times -gt 0 ]; do
    wait_for 20 busy
    echo "+ $*" >$LOG
    "$@" >>$LOG 2>&1 || { fail "$name.break" "status $?: $*"; break; }
    sleep 1
    wait_for 60 live || { dmesg | tail -n 20 >>$LOG; fail "$name.back" "the host is $(state) 60 s after: $*"; break; }
    times=$((times - 1))
  done
  touch /tmp/stop
  wait_for 120 ended $WRITER || fail "$name.writer" "still writing after 120 s"
  if [ -e /tmp/writer-failed ]; then cat /tmp/writer >>$LOG; fail "$name.writer" "a write failed"; else ok "$name.writer"; fi
  [ -d /mnt/fs/last ] || copy last
  check "$name.sums" same_tree /mnt/fs/last
}
reset() { echo 1 >/sys/class/nvme/$CTRL/reset_controller; }

# Read-ahead that a broken path cuts short is not repeated but told: `I/O error` of the path, nvmeXcYnZ. Of the disk above it, nvmeXnY,
# none may be told.
troubles() {
  dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task|I/O error|EXT4-fs error' |
    grep -vE 'I/O error, dev nvme[0-9]+c[0-9]+n[0-9]+, .* op 0x0:\(READ\)'
}

# The target is killed and started again while the host is connected and writing.
kill_target() {
  kill -9 $TARGET
  wait $TARGET
  wait_for 20 gone
  start --file /data/disk
}
gone() { ! ready; }
