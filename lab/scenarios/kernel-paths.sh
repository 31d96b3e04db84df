# shellcheck shell=sh
#: machine drives
#: parameters nvme.poll_queues=2
#: modules nvme dm-mod
#: programs dmsetup
#: seconds 240
# Drives that the kernel's driver has: its block devices by libaio and io_uring, polled queues, and commands that it
# passes through; what is said where a limit stops them; what device-mapper has is not written until that is insisted on.
. /lab/guest.sh
. /lab/drives.sh

for drive in $DRIVES; do need drives wait_for 30 bound $drive nvme; done
HOT1=$(block_device $HOT 1) MANY1=$(block_device $MANY 1) MANY2=$(block_device $MANY 2) META=$(block_device $MANY 5)
generic() { echo "/dev/ng${1#/dev/nvme}"; } # BLOCK-DEVICE
poll_queues=$(cat /sys/module/nvme/parameters/poll_queues)

QUICK='-d 200 -t 60 -o 4096 -c 0x1'
for engine in libaio io_uring; do
  # shellcheck disable=SC2086
  perf block.$engine $QUICK -q 16 -w randrw -M 70 --engine $engine "$HOT1"
  said block.$engine.row "^$HOT1 +from core"
  # shellcheck disable=SC2086
  perf block.$engine.sleeps $QUICK -q 8 -w randread -E --engine $engine "$HOT1" "$MANY2"
  check block.$engine.rows [ "$(rows)" = 2 ]
done
# shellcheck disable=SC2086
perf block.unregistered $QUICK -q 16 -w randwrite --fua -R --unregistered "$MANY1"
# shellcheck disable=SC2086
perf block.write_zeroes $QUICK -q 8 -w write_zeroes -R "$MANY1"
case $(uname -r) in
  [0-5].* | 6.[0-9].* | 6.1[01].*)
    check_refused block.trim 20 'needs Linux 6.12' doorbell perf -R -q 8 -o 4096 -w trim -t 1 "$MANY1" ;;
  # shellcheck disable=SC2086
  *) perf block.trim $QUICK -q 8 -w trim -R "$MANY1" ;;
esac
if [ "$poll_queues" -gt 0 ]; then
  # shellcheck disable=SC2086
  perf iopoll $QUICK -q 16 -w randread -R --iopoll "$MANY1"
  # shellcheck disable=SC2086
  perf iopoll.passthrough $QUICK -q 16 -w randread --iopoll "$(generic "$MANY1")"
  check_refused iopoll.flush 20 'carries no Flush' doorbell perf -R -q 8 -o 4096 -w randwrite --flush-every 8 -t 1 --iopoll "$MANY1"
else skip iopoll 'the nvme module took no poll_queues'; fi

# What a command wrote, the block device reads.
NG=$(generic "$MANY2")
if [ -e "$NG" ]; then
  # shellcheck disable=SC2086
  perf passthrough $QUICK -q 16 -w randrw -M 70 "$NG"
  said passthrough.row "^$NG +from core"
  # shellcheck disable=SC2086
  perf passthrough.sleeps $QUICK -q 8 -w randread -E "$NG" "$(generic "$HOT1")"
  # shellcheck disable=SC2086
  perf passthrough.unregistered $QUICK -q 8 -w randread --unregistered "$NG"
  perf passthrough.write -q 8 -d 64 -t 60 -c 0x1 -o 65536 -w write "$NG"
  check passthrough.written sh -c "dd if=$MANY2 bs=65536 count=1 iflag=direct 2>/dev/null | tr -d '\\000' | head -c 1 | grep -q ."
  check_refused passthrough.libaio 20 'libaio cannot carry' doorbell perf -q 1 -o 4096 -w read -t 1 --engine libaio "$NG"
else skip passthrough 'this kernel has no generic devices'; fi
check_refused passthrough.metadata 20 'bytes of metadata' doorbell perf -q 1 -o 4096 -w read -t 1 "$(generic "$META")"
check_refused block.passthrough 20 'for NVMe devices that take commands' doorbell perf -q 1 -o 4096 -w read -t 1 --engine io_uring_cmd "$HOT1"

# What this machine does not allow, and what changes that.
chmod 666 "$MANY1"
limited() { # NAME SETTING VALUE PATTERN COMMAND…
  limited=$1 setting=/proc/sys/$2 value=$3 pattern=$4; shift 4
  [ -e "$setting" ] || { skip limited.$limited "this kernel has no $setting"; return; }
  before=$(cat "$setting")
  echo "$value" >"$setting"
  check_refused limited.$limited 20 "$pattern" "$@"
  echo "$before" >"$setting"
}
limited aio fs/aio-max-nr 1 'of the 1 that fs.aio-max-nr allows' doorbell perf -q 16 -o 4096 -w read -t 1 "$MANY1"
limited uring kernel/io_uring_disabled 2 'io_uring_disabled is 2' doorbell perf -R -q 16 -o 4096 -w read -t 1 "$MANY1"
limited uring.user kernel/io_uring_disabled 1 'io_uring_disabled is 1' \
  su -s /bin/sh user -c "doorbell perf -R -q 16 -o 4096 -w read -t 1 $MANY1"
check_refused limited.memlock 20 'RLIMIT_MEMLOCK.*--unregistered' \
  su -s /bin/sh user -c "ulimit -l 64; doorbell perf -R -q 128 -o 131072 -w read -t 1 $MANY1"
# shellcheck disable=SC2086
check limited.unregistered as_user "ulimit -l 64; doorbell perf $QUICK -R --unregistered -q 16 -w read $MANY1"

# A part of a drive that device-mapper has under another name.
need mapped run 20 dmsetup create over --noudevsync --table "0 8192 linear $HOT1 0"
mapped() { # NAME DEVICE
  # shellcheck disable=SC2086
  check_refused mapped.$1 20 'held by dm-[0-9]+ .device-mapper: over' doorbell perf $QUICK -q 4 -w write "$2"
  insist=$(sed -n "s/.* add --overwrite '\(.*\)'\$/\1/p" $LOG)
  # shellcheck disable=SC2086
  perf mapped.$1.insisted $QUICK -q 4 -w write --overwrite "$insist" "$2"
}
mapped block "$HOT1"
[ ! -e "$NG" ] || mapped passthrough "$(generic "$HOT1")"
# shellcheck disable=SC2086
{
  perf mapped.read $QUICK -q 4 -w randread "$HOT1"
  perf mapped.itself $QUICK -q 4 -w write /dev/dm-0
}
check mapped.removed run 20 dmsetup remove --noudevsync over
# shellcheck disable=SC2086
perf mapped.free $QUICK -q 4 -w write "$HOT1"

# A file and a drive side by side; the drive is pulled, and the other goes on.
monitor '{"execute": "query-version"}'
doorbell perf -q 4 -o 4096 -w randread -t 8 -c 0x1 -R "$HOT1" "$MANY1" >/tmp/pulled 2>&1 & pulled=$!
sleep 4
monitor '{"execute": "device_del", "arguments": {"id": "hot"}}'
wait_for 40 ended $pulled
cp /tmp/pulled $LOG
said pulled.told "$HOT1 from core 0: .*(EIO|ENODEV|ENXIO)"
said pulled.other "^$MANY1 +from core"
check kernel kernel_quiet
finish
