# shellcheck shell=sh
#: machine rdma
#: modules configfs nvmet nvme-fabrics
#: programs doorbell-lab
#: seconds 1500
# Doorbell as the host, against the kernel's NVMe/RDMA target over soft RoCE. As kernel-target does it for TCP: counts of I/Os end the
# runs, and what doorbell claims is compared with what the kernel's block devices counted and hold.
. /lab/guest.sh
. /lab/nvmet.sh
. /lab/rdma.sh

A=nqn.2024-01.lab:a CLOSED=nqn.2024-01.lab:closed
need device rdma_up rxe
need module modprobe nvmet-rdma
modprobe null_blk nr_devices=0
D512=$(null_device n512 192 512)
null_device n4k 64 4096 >/dev/null

subsystem $A LAB-A-0001
namespace $A 1 /dev/n512
namespace $A 2 /dev/n4k
subsystem $CLOSED LAB-C-0003
echo 0 >$NVMET/subsystems/$CLOSED/attr_allow_any_host
namespace $CLOSED 1 /dev/n4k
make_port() { port 1 ipv4 $V4 4420 addr_trtype=rdma; publish 1 $A; }
remove_port() { withdraw 1 $A; rmdir $NVMET/ports/1; }
make_port
port 2 ipv4 $V4 4421 addr_trtype=rdma param_inline_data_size=0
port 3 ipv6 $V6 4420 addr_trtype=rdma
port 4 ipv4 $V4 4423 addr_trtype=rdma param_inline_data_size=16384
for id in 2 3 4; do publish $id $A; done
publish 4 $CLOSED

at() { echo "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:$1"; }
ALL="$(at 4420) subnqn:$A"
ONE="$ALL ns:1" TWO="$ALL ns:2"
SIX="trtype:rdma adrfam:IPv6 traddr:$V6 trsvcid:4420 subnqn:$A ns:1"

# --- discover, identify, and the original's own example

check discover run 30 doorbell discover -r "$(at 4420)"
check discover.lists grep -q $A $LOG
said discover.transport '[Rr][Dd][Mm][Aa]'
check identify run 30 doorbell identify -r "$ALL"
check identify.serial grep -q LAB-A-0001 $LOG
perf example -r "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420" -q 256 -o 4096 -w randread -t 100 -d 1000
said example.name "RDMA \\(addr:$V4 subnqn:$A\\) NSID 1"

# --- patterns

for pattern in read write randread randwrite 'rw -M 50' 'randrw -M 70'; do
  # shellcheck disable=SC2086
  perf_exact "$(echo "pattern.$pattern" | tr -d ' ')" n512 400 4096 -r "$ONE" -q 32 -w $pattern -c 0x1
done

# --- sizes: in-capsule up to what each port takes, RDMA READ above

for size in 512 1024 4096 4608 8192 16384 65536 131072 524288 1048576; do
  count=200; [ $size -lt 131072 ] || count=40
  for pattern in randread randwrite; do
    perf_exact size.$pattern.$size n512 $count $size -r "$ONE" -q 16 -w $pattern -c 0x1
  done
done
for size in 512 4096 65536; do
  perf_exact no-in-capsule.$size n512 200 $size -r "$(at 4421) subnqn:$A ns:1" -q 16 -w randwrite -c 0x1
done
for size in 8192 16384 20480; do
  perf_exact in-capsule-16k.$size n512 200 $size -r "$(at 4423) subnqn:$A ns:1" -q 16 -w randwrite -c 0x1
done
perf_exact block-4096 n4k 200 8192 -r "$TWO" -q 16 -w randrw -M 50 -c 0x1

# --- depths; the kernel grants queues of 128 entries, which hold 127 commands

for depth in 1 2 127 128 512; do perf_exact depth.$depth n512 1024 4096 -r "$ONE" -q $depth -w randread -c 0x1; done

# --- shapes

perf_exact qpairs n512 600 4096 -r "$ONE" -q 64 -w randrw -M 50 -P 4 -c 0x1
perf_exact units n512 200 4096 -r "$ONE" -q 16 -w randrw -M 50 -O 4096 -c 0x1
perf_exact units-large n512 100 65536 -r "$ONE" -q 16 -w randrw -M 50 -O 4096 -c 0x1
perf_exact units-odd n512 100 65536 -r "$ONE" -q 16 -w randwrite -O 1020 -c 0x1
perf_exact shared n512 600 4096 -r "$ONE" -q 32 -w randrw -M 50 -P 4 --rdma-srq-size 512 -c 0x1
perf_exact shared-small n512 400 4096 -r "$ONE" -q 128 -w randread -P 2 --rdma-srq-size 32 -c 0x1
perf_exact interrupts n512 400 4096 -r "$ONE" -q 16 -w randrw -M 50 -E -c 0x1
perf_exact interrupts-qpairs n512 400 4096 -r "$ONE" -q 32 -w randread -P 4 -E -c 0x1
perf_exact queue-size n512 400 4096 -r "$ONE" -q 32 -w randread --io-queue-size 16 -c 0x1
perf_exact type-of-service n512 400 4096 -r "$ONE" -q 16 -w randread --transport-tos 32 -c 0x1
perf_exact source-address n512 400 4096 -r "$ONE hostaddr:$V4" -q 16 -w randread -c 0x1
perf_exact ipv6 n512 400 4096 -r "$SIX" -q 32 -w randrw -M 50 -c 0x1
perf_exact ipv6.large n512 40 262144 -r "$SIX" -q 8 -w randrw -M 50 -P 2 -c 0x1
perf cores -r "$ONE" -q 16 -o 4096 -w randread -d 400 -t 60 -c 0x3
check cores.rows [ "$(rows)" = 2 ]
perf every-core -r "$ALL" -q 8 -o 4096 -w randrw -M 50 -d 200 -t 60 -c 0x3 --use-every-core
check every-core.rows [ "$(rows)" = 4 ]
perf namespaces -r "$ONE" -r "$TWO" -q 16 -o 4096 -w randread -d 200 -t 60 -c 0x1
check namespaces.rows [ "$(rows)" = 2 ]
perf statistics -r "$ONE" -q 16 -o 4096 -w randread -d 400 -t 60 --transport-stats -c 0x1
said statistics.heading '^RDMA transport:'
said statistics.device 'dev name: +rxe'
said statistics.sends 'total_send_wrs: +[1-9]'
said statistics.completions 'completions: +[1-9]'
said statistics.receives 'recv_doorbell_updates: +[1-9]'
perf keep-alive -r "$ONE" -q 4 -o 4096 -w randread -t 7 -k 3000 -c 0x1
perf keep-alive.interrupts -r "$ONE" -q 4 -o 4096 -w randread -t 7 -k 3000 -E -c 0x1

# --- what is written is what the kernel finds

make_random
for shape in '512 1000' '4096 1000' '20480 400' '1048576 16'; do
  # shellcheck disable=SC2086
  set -- $shape
  dd if=/tmp/random of="$D512" bs=1M oflag=direct 2>/dev/null
  perf data.$1 -r "$ONE" -q 8 -o $1 -w write -d $2 -t 60 -c 0x1 && check data.$1.found written "$D512" $2 $1
done
# The other way round, with memory that begins anywhere and commands of many sizes.
dd if=/tmp/random of="$D512" bs=1M oflag=direct 2>/dev/null
doorbell-lab read "$ONE" 33554432 >/tmp/back 2>$LOG
check data.read cmp /tmp/random /tmp/back
dd if=/dev/zero of="$D512" bs=1M count=32 oflag=direct 2>/dev/null
doorbell-lab write "$ONE" </tmp/random >$LOG 2>&1
dd if="$D512" of=/tmp/back bs=1M count=32 iflag=direct 2>/dev/null
check data.write cmp /tmp/random /tmp/back

# --- trouble: every failure of the connection manager names the address, the step, the code and what it means

QUICK='-q 8 -o 4096 -w randread -d 100 -t 30 -c 0x1'
PEER="$(at 4430) subnqn:$A"
# shellcheck disable=SC2086
{
  check_refused wrong-nqn 40 nqn.2024-01.lab:nowhere doorbell perf -r "$(at 4420) subnqn:nqn.2024-01.lab:nowhere" $QUICK
  check_refused host-not-allowed 40 'host' doorbell perf -r "$(at 4423) subnqn:$CLOSED" $QUICK
  check_refused closed-port 40 "$V4.*nobody listens" doorbell perf -r "$(at 4499) subnqn:$A" $QUICK
  check_refused closed-port.discovery 40 "$V4.*nobody listens" doorbell perf -r "$(at 4499)" $QUICK
  check_refused discover.closed-port 40 "$V4.*nobody listens" doorbell discover -r "$(at 4499)"
  check_refused no-route 40 '10.99.1.1.*unreachable' doorbell perf -r "trtype:rdma adrfam:IPv4 traddr:10.99.1.1 trsvcid:4420 subnqn:$A" $QUICK
  check_refused no-neighbour 40 '192.168.159.77' doorbell perf -r "trtype:rdma adrfam:IPv4 traddr:192.168.159.77 trsvcid:4420 subnqn:$A" $QUICK
  check_refused no-device 40 '127.0.0.1' doorbell perf -r "trtype:rdma adrfam:IPv4 traddr:127.0.0.1 trsvcid:4420 subnqn:$A" $QUICK
  code=0
  for meaning in 'Private Data Length' 'RECFMT' 'Invalid QID' 'HSQSIZE' 'HRQSIZE' 'No Resources' 'Invalid IRD' 'Invalid ORD' 'CNTLID'; do
    code=$((code + 1))
    rdma_peer rejected.$code refuse=$code "$V4.*$meaning" doorbell perf -r "$PEER" $QUICK
  done
  rdma_peer rejected.babble babble "$V4.*refused by the application" doorbell perf -r "$PEER" $QUICK
  rdma_peer silent silent "$V4" doorbell perf -r "$PEER" $QUICK
  rdma_peer mute mute "$V4" doorbell perf -r "$PEER" $QUICK
  rdma_peer stingy stingy "$V4" doorbell perf -r "$PEER" $QUICK
  rdma_peer invalidates-unasked invalidate "$V4" doorbell perf -r "$PEER" $QUICK
  rdma_peer invents-answers invent "$V4" doorbell perf -r "$PEER" $QUICK
}

# --- away in the middle of I/O

interrupted withdrawn NON-ZERO withdraw 1 $A
publish 1 $A
perf withdrawn.again -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
disable() { echo 0 >$NVMET/subsystems/$A/namespaces/1/enable; }
interrupted namespace-removed NON-ZERO disable
echo 1 >$NVMET/subsystems/$A/namespaces/1/enable
interrupted port-removed NON-ZERO remove_port
make_port
interrupt() { kill -INT $pid; }
interrupted ctrl-c ANY interrupt
for options in -P4 -E '-P2 --rdma-srq-size 128'; do
  OPTIONS=$options
  interrupted "port-removed.$(printf %s "$options" | tr -d ' ')" NON-ZERO remove_port
  make_port
done
OPTIONS=
take_away() { withdraw 1 $A; }
give_back() { publish 1 $A; }
outlives reconnect.withdrawn take_away give_back
outlives reconnect.port-removed remove_port make_port

# A device that goes takes the kernel's ports on it along for good.
return_device() { rdma_add && remove_port && make_port; }
interrupted device-removed NON-ZERO rdma_delete
check device-removed.back return_device
perf device-removed.again -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
for options in -E '-P4 --rdma-srq-size 128'; do
  OPTIONS=$options
  interrupted "device-removed.$(printf %s "$options" | tr -d ' ')" NON-ZERO rdma_delete
  return_device
done
OPTIONS=
outlives reconnect.device-removed rdma_delete return_device

perf after-trouble -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1

check kernel-log.quiet sh -c "! dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task'"
finish
