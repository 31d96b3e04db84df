# shellcheck shell=sh
#: modules configfs nvme-tcp ext4 brd tcp_diag
#: programs nvme ss mkfs.ext4 e2fsck blkdiscard fstrim
#: seconds 900
# The kernel's NVMe/TCP host against `doorbell target` in the same guest: administration, a file system on
# it, connections broken and targets killed in the middle of writes. Nothing may be lost or torn.
. /lab/guest.sh

NQN=nqn.2024-01.lab:doorbell
TARGET=

# Starts `doorbell target` with the options and waits until it listens.
start() {
  doorbell target "$@" --listen 127.0.0.1:4420 --nqn $NQN >>/tmp/target 2>&1 &
  TARGET=$!
  if ! wait_for 20 listening 4420; then cat /tmp/target >>$LOG; return 1; fi
}
# Ends it in good order.
stop() {
  kill $TARGET
  wait_for 20 ended $TARGET || { kill -9 $TARGET; return 1; }
  wait $TARGET
}

connect() { # OPTION…
  run 60 nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $NQN --hostnqn=$HOST_NQN --hostid=$HOST_ID --reconnect-delay=1 "$@" || return
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

make_tree /tmp/tree 32

# --- a file system

mkdir -p /mnt/fs
make_fs() { run 120 mkfs.ext4 -q -F $DEV && run 30 mount $DEV /mnt/fs; }
unmount() { run 120 umount /mnt/fs; }
clean() { run 120 e2fsck -fn $DEV; }
copy() { run 300 cp -r /tmp/tree /mnt/fs/$1; }

# --- connections broken in the middle of writes

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
kill_sockets() { ss -K dst 127.0.0.1 dport = :4420; }
cut_link() { ip link set lo down; sleep "$1"; ip link set lo up; }

# --- a file behind the namespace: what was flushed outlives the target

modprobe brd rd_nr=1 rd_size=262144
mkdir -p /data
run 60 mkfs.ext4 -q -F /dev/ram0 && run 30 mount /dev/ram0 /data
truncate -s 192M /data/disk
need file.start start --file /data/disk
need file.connect connect
check file.size sh -c "[ \$((\$(cat /sys/block/${DEV#/dev/}/size) * 512)) = $((192 << 20)) ]"
check file.blocks blocks 16k
need file.make make_fs
check file.copy copy one
check file.sums same_tree /mnt/fs/one
check file.unmount unmount
disconnect
check file.stop stop
check file.on-disk run 120 e2fsck -fn /data/disk
need file.again start --file /data/disk
need file.again.connect connect
need file.again.mount run 30 mount $DEV /mnt/fs
check file.again.sums same_tree /mnt/fs/one

# The target is killed and started again while the host is connected and writing.
kill_target() {
  kill -9 $TARGET
  wait $TARGET
  wait_for 20 gone
  start --file /data/disk
}
gone() { ! listening 4420; }
broken file.killed 2 kill_target
check file.killed.old-files same_tree /mnt/fs/one
check file.unmount unmount
check file.clean clean
disconnect
check file.end stop

need file-4096.start start --file /data/disk,block=4096
need file-4096.connect connect
check file-4096.block-size [ "$(cat /sys/block/${DEV#/dev/}/queue/logical_block_size)" = 4096 ]
check file-4096.blocks blocks 64k
disconnect
check file-4096.stop stop

cp /tmp/target $LOG
check target.no-panic sh -c '! grep "panicked at" /tmp/target'
dmesg >$LOG
check kernel-log.quiet sh -c "! dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task|I/O error|EXT4-fs error'"
finish
