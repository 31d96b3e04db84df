# shellcheck shell=sh
#: modules configfs nvmet nvmet-tcp nvme-tcp tcp_diag
#: programs nvme ss
#: seconds 900
# Doorbell as the host, against the kernel's NVMe/TCP target in the same guest. Counts of I/Os rather than
# seconds end the runs: the processors are emulated. What doorbell claims is compared with what the kernel's
# block devices counted and hold.
. /lab/guest.sh
. /lab/nvmet.sh

A=nqn.2024-01.lab:a B=nqn.2024-01.lab:b CLOSED=nqn.2024-01.lab:closed
modprobe null_blk nr_devices=0
D512=$(null_device n512 192 512)
null_device n4k 192 4096 >/dev/null
null_device other 64 512 >/dev/null
truncate -s 64M /tmp/file

subsystem $A LAB-A-0001
namespace $A 1 /dev/n512
namespace $A 2 /dev/n4k
namespace $A 7 /tmp/file
subsystem $B LAB-B-0002
namespace $B 1 /dev/other
subsystem $CLOSED LAB-C-0003
echo 0 >$NVMET/subsystems/$CLOSED/attr_allow_any_host
namespace $CLOSED 1 /dev/other
mkdir $NVMET/hosts/$HOST_NQN
ln -s $NVMET/hosts/$HOST_NQN $NVMET/subsystems/$CLOSED/allowed_hosts/$HOST_NQN

port 1 ipv4 127.0.0.1 4420
port 2 ipv4 127.0.0.1 4421 param_inline_data_size=1024
port 3 ipv6 ::1 4422
port 4 ipv4 127.0.0.1 4423
for subsystem in $A $B; do publish 1 $subsystem; done
publish 2 $A
publish 3 $B
publish 4 $CLOSED

at() { echo "trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:$1"; }
ALL="$(at 4420) subnqn:$A"
ONE="$ALL ns:1" TWO="$ALL ns:2" OTHER="$(at 4420) subnqn:$B"

# --- discover and identify

check discover run 20 doorbell discover -r "$(at 4420)"
for subsystem in $A $B; do check discover.lists-${subsystem##*:} grep -q $subsystem $LOG; done
check discover.json run 20 doorbell discover --json -r "$(at 4420)"
check discover.json.lists grep -q "\"$A\"" $LOG
check identify run 20 doorbell identify -r "$ALL"
check identify.serial grep -q LAB-A-0001 $LOG
check identify.model grep -q Linux $LOG
check identify.json run 20 doorbell identify --json -r "$ALL"
check identify.json.serial grep -q '"LAB-A-0001' $LOG

# --- patterns and digests

for digest in none -H -I -HI; do
  [ $digest = none ] && option='' || option=$digest
  for pattern in read write randread randwrite 'rw -M 50' 'randrw -M 70'; do
    # shellcheck disable=SC2086
    perf_exact "$(echo "pattern.$pattern.$digest" | tr -d ' ')" n512 400 4096 -r "$ONE" -q 32 -w $pattern $option -c 0x1
  done
done

# --- sizes: in-capsule up to 16 KiB on this port, R2T above

for size in 512 1024 8192 16384 16896 65536 131072 524288 1048576; do
  count=200; [ $size -lt 131072 ] || count=40
  for pattern in randread randwrite; do
    perf_exact size.$pattern.$size n512 $count $size -r "$ONE" -q 16 -w $pattern -c 0x1
    case $size in
      512 | 65536 | 1048576) perf_exact size.$pattern.$size.-HI n512 $count $size -r "$ONE" -q 16 -w $pattern -HI -c 0x1 ;;
    esac
  done
done
for size in 4096 65536; do
  perf_exact no-in-capsule.$size n512 200 $size -r "$(at 4421) subnqn:$A ns:1" -q 16 -w randwrite -c 0x1
  perf_exact block-4096.$size n4k 200 $size -r "$TWO" -q 16 -w randrw -M 50 -HI -c 0x1
done

# --- depths; the kernel grants queues of 128 entries, which hold 127 commands

for depth in 1 2 8 64 127 128 512; do
  perf_exact depth.$depth n512 1024 4096 -r "$ONE" -q $depth -w randread -c 0x1
done

# --- shapes

perf_exact qpairs n512 600 4096 -r "$ONE" -q 64 -w randrw -M 50 -P 4 -c 0x1
perf_exact qpairs-unused n512 400 4096 -r "$ONE" -q 16 -w randread -U 2 -c 0x1
perf_exact units n512 100 65536 -r "$ONE" -q 16 -w randrw -M 50 -O 4096 -c 0x1
perf_exact units-odd n512 100 65536 -r "$ONE" -q 16 -w randwrite -O 1020 -HI -c 0x1
perf_exact fua n512 200 4096 -r "$ONE" -q 16 -w randwrite --fua -c 0x1
perf_exact zipf n512 400 4096 -r "$ONE" -q 16 -w randread -F 1.1 -c 0x1
perf_exact batch n512 400 4096 -r "$ONE" -q 32 -w randread -C 4 -c 0x1
perf_exact queue-size n512 400 4096 -r "$ONE" -q 32 -w randread --io-queue-size 16 -c 0x1
perf cores -r "$ONE" -q 16 -o 4096 -w randread -d 400 -t 60 -c 0x3
check cores.rows [ "$(rows)" = 2 ]
perf every-core -r "$ALL" -q 8 -o 4096 -w randrw -M 50 -d 200 -t 60 -c 0x3 --use-every-core
check every-core.rows [ "$(rows)" = 6 ]
perf namespaces -r "$ALL" -q 8 -o 4096 -w randread -d 200 -t 60 -c 0x1
for nsid in 1 2 7; do check namespaces.$nsid grep -q "NSID $nsid from core" $LOG; done
perf too-large-block -r "$ALL" -q 8 -o 512 -w randread -d 200 -t 60 -c 0x1
check too-large-block.left-out [ "$(rows)" = 1 ]
perf two-targets -r "$ONE" -r "$OTHER" -q 16 -o 4096 -w randread -d 200 -t 60 -c 0x1
check two-targets.rows [ "$(rows)" = 2 ]
perf discovered -r "$(at 4420)" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
check discovered.rows [ "$(rows)" = 4 ]
perf ipv6 -r "trtype:tcp adrfam:IPv6 traddr:::1 trsvcid:4422 subnqn:$B" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
perf host-name -r "trtype:tcp adrfam:IPv4 traddr:localhost trsvcid:4420 subnqn:$B" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
perf source-address -r "$OTHER hostaddr:127.0.0.2" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
perf latency -r "$ONE" -q 16 -o 4096 -w randread -d 400 -t 60 -LL -c 0x1
check latency.summary grep -q '99.99900%' $LOG
check latency.histogram grep -q 'Range in us' $LOG
perf statistics -r "$ONE" -q 16 -o 4096 -w randread -d 400 -t 60 --transport-stats -c 0x1
check statistics.completions grep -qE 'nvme_completions: +400$' $LOG
perf seconds -r "$ONE" -q 16 -o 4096 -w randread -t 2 -a 1 -c 0x1
perf keep-alive -r "$ONE" -q 4 -o 4096 -w randread -t 7 -k 3000 -c 0x1
perf allowed -r "$(at 4423) subnqn:$CLOSED hostnqn:$HOST_NQN" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1

# --- paths: two ports lead to the same namespace, each with an ANA state of its own

ana() { echo "$2" >$NVMET/ports/"$1"/ana_groups/1/ana_state; } # PORT STATE
SECOND="$(at 4421) subnqn:$A ns:1"
PATHS='-q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1'
check paths.identify run 20 doorbell identify -r "$ONE"
check paths.identify.state grep -qE 'ana state: +ANA Optimized' $LOG
check paths.identify.shared grep -qE 'shared: +true' $LOG
ana 2 non-optimized
# shellcheck disable=SC2086
{
  perf paths.both -r "$ONE" -r "$SECOND" $PATHS
  check paths.both.rows [ "$(rows)" = 2 ]
  check paths.both.told grep -q 'These are 2 paths to one namespace' $LOG
  check paths.both.first grep -q 'port 4420, controller .*: ANA Optimized' $LOG
  check paths.both.second grep -q 'port 4421, controller .*: ANA Non-Optimized' $LOG
  for state in inaccessible persistent-loss change; do
    ana 2 $state
    perf paths.$state -r "$ONE" -r "$SECOND" $PATHS
    check paths.$state.left-out [ "$(rows)" = 1 ]
    check_refused paths.$state.alone 30 'I/O is refused over this path' doorbell perf -r "$SECOND" $PATHS
  done
}
ana 2 optimized
# A state that changes during a run, and takes I/O all the same.
doorbell perf -r "$ONE" -q 8 -o 4096 -w randread -t 8 -c 0x1 >$LOG 2>&1 & pid=$!
wait_for 20 grep -q 'Launching workers' $LOG
ana 1 non-optimized
check paths.changed wait $pid
check paths.changed.told grep -q 'NSID 1: ANA Non-Optimized' $LOG
ana 1 optimized

# --- what is written is what the kernel finds

make_random
for shape in '512 1000 -' '4096 1000 -' '4096 1000 -HI' '20480 400 -HI' '65536 128 -' '1048576 16 -HI'; do
  # shellcheck disable=SC2086
  set -- $shape
  [ "$3" = - ] && option='' || option=$3
  dd if=/tmp/random of="$D512" bs=1M oflag=direct 2>/dev/null
  # shellcheck disable=SC2086
  perf data.$1.$3 -r "$ONE" -q 8 -o $1 -w write -d $2 -t 60 $option -c 0x1 && check data.$1.$3.found written "$D512" $2 $1
done
dd if=/tmp/random of="$D512" bs=1M oflag=direct 2>/dev/null
perf data.read -r "$ONE" -q 8 -o 4096 -w read -d 2000 -t 60 -HI -c 0x1 && check data.read.untouched written "$D512" 0 4096

# --- trouble

QUICK='-q 8 -o 4096 -w randread -d 100 -t 30 -c 0x1'
# shellcheck disable=SC2086
{
  check_refused wrong-nqn 30 nqn.2024-01.lab:nowhere doorbell perf -r "$(at 4420) subnqn:nqn.2024-01.lab:nowhere" $QUICK
  check_refused closed-port 30 'refused' doorbell perf -r "$(at 4499) subnqn:$A" $QUICK
  check_refused closed-port.discovery 30 'refused' doorbell perf -r "$(at 4499)" $QUICK
  check_refused one-of-two 30 'refused' doorbell perf -r "$ONE" -r "$(at 4499) subnqn:$A" $QUICK
  check_refused absent-namespace 30 '\b3\b' doorbell perf -r "$ALL ns:3" $QUICK
  check_refused host-not-allowed 30 'host' doorbell perf -r "$(at 4423) subnqn:$CLOSED" $QUICK
  check_refused identify.wrong-nqn 30 nqn.2024-01.lab:nowhere doorbell identify -r "$(at 4420) subnqn:nqn.2024-01.lab:nowhere"
  check_refused discover.closed-port 30 'refused' doorbell discover -r "$(at 4499)"
  nc -l -p 4490 </dev/zero >/dev/null & peer=$!
  wait_for 10 listening 4490
  check_refused peer-of-zeroes 40 '4490|PDU|TCP' doorbell perf -r "$(at 4490) subnqn:$A" $QUICK
  kill $peer 2>/dev/null
  sleep 300 | nc -l -p 4491 >/dev/null & peer=$!
  wait_for 10 listening 4491
  check_refused silent-peer 60 '4491|timed out|time' doorbell perf -r "$(at 4491) subnqn:$A" $QUICK
  kill $peer 2>/dev/null
}

interrupted withdrawn NON-ZERO withdraw 1 $A
publish 1 $A
perf withdrawn.again -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
disable() { echo 0 >$NVMET/subsystems/$A/namespaces/1/enable; }
interrupted namespace-removed NON-ZERO disable
echo 1 >$NVMET/subsystems/$A/namespaces/1/enable
interrupted path-inaccessible NON-ZERO ana 1 inaccessible
check path-inaccessible.told grep -q 'Asymmetric Access Inaccessible' $LOG
ana 1 optimized
perf path-inaccessible.again -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
sockets_killed() { ss -K dst 127.0.0.1 dport = :4420 >/dev/null; }
interrupted sockets-killed NON-ZERO sockets_killed
interrupt() { kill -INT $pid; }
interrupted ctrl-c ANY interrupt

# --- away and back

take_away() { withdraw 1 $A; }
give_back() { publish 1 $A; }
outlives reconnect.withdrawn take_away give_back
remove_port() {
  for subsystem in $A $B; do withdraw 1 $subsystem; done
  rmdir $NVMET/ports/1
}
make_port() {
  port 1 ipv4 127.0.0.1 4420
  for subsystem in $A $B; do publish 1 $subsystem; done
}
outlives reconnect.port-removed remove_port make_port
outlives reconnect.sockets-killed sockets_killed true

perf after-trouble -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1

check kernel-log.quiet sh -c "! dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task'"
finish
