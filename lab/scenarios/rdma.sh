# shellcheck shell=sh
#: machine rdma
#: modules configfs
#: programs doorbell-lab
#: seconds 900
# RDMA with both ends ours, over soft RoCE: the link by itself, then `doorbell perf` on `doorbell target`.
. /lab/guest.sh
. /lab/rdma.sh

NQN=nqn.2024-01.lab:doorbell

# --- without a device, and without the libraries

check_refused no-device 30 'no RDMA device.*rdma link' doorbell identify -r "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420 subnqn:$NQN"
library=$(find / -xdev -name librdmacm.so.1)
mv "$library" "$library.away"
check_refused no-library 30 'apt-get install librdmacm1' doorbell identify -r "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420 subnqn:$NQN"
check_refused no-library.target 30 'apt-get install librdmacm1' doorbell target --ram 16M --listen rdma:$V4:4420 --nqn $NQN
check no-library.help run 20 doorbell perf --help
doorbell target --ram 16M --listen 127.0.0.1:4420 --nqn $NQN >/tmp/target 2>&1 & target=$!
wait_for 20 listening 4420
perf no-library.tcp -r "trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:4420 subnqn:$NQN" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
kill $target; wait $target
mv "$library.away" "$library"

# --- the link by itself

need device rdma_up "${SOFT:-rxe}"
rdma_link link.ipv4 $V4:5000
rdma_link link.ipv6 "[$V6]:5000"
rdma_link link.sleep $V4:5000 sleep
# A device without shared receive queues leaves them out.
rdma_link link.shared $V4:5000 shared
rdma_link link.shared.sleep "[$V6]:5000" shared sleep

# --- both ends

start() {
  doorbell target "$@" --listen "rdma:$V4:4420" --listen "rdma:[$V6]:4421" --nqn $NQN >>/tmp/target 2>&1 & target=$!
  wait_for 20 rdma_listening 4420 && wait_for 20 rdma_listening 4421
}
need target start --ram 64M --null 1G --ram 16M,metadata=8,pi=1
ALL="trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420 subnqn:$NQN"
ONE="$ALL ns:1"
SIX="trtype:rdma adrfam:IPv6 traddr:$V6 trsvcid:4421 subnqn:$NQN ns:1"

check discover run 30 doorbell discover -r "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420"
check discover.lists grep -q $NQN $LOG
check identify run 30 doorbell identify -r "$SIX"
for pattern in read write randread randwrite 'rw -M 50' 'randrw -M 70'; do
  # shellcheck disable=SC2086
  perf "pattern.$(echo "$pattern" | tr -d ' ')" -r "$ONE" -q 32 -o 4096 -w $pattern -d 400 -t 60 -c 0x1
done
for size in 512 8192 65536 1048576; do
  perf size.$size -r "$SIX" -q 8 -o $size -w randrw -M 50 -d 60 -t 60 -c 0x1
done
perf qpairs -r "$ONE" -q 32 -o 4096 -w randrw -M 50 -P 4 -d 400 -t 60 -c 0x3
perf shared -r "$ONE" -q 32 -o 4096 -w randrw -M 50 -P 4 --rdma-srq-size 512 -d 400 -t 60 -c 0x1
perf interrupts -r "$SIX" -q 32 -o 4096 -w randrw -M 50 -E -d 400 -t 60 -c 0x1
perf units -r "$ONE" -q 16 -o 65536 -O 4096 -w randrw -M 50 -d 60 -t 60 -c 0x1
perf null -r "$ALL ns:2" -q 128 -o 4096 -w randread -d 1000 -t 60 -c 0x1
# Metadata behind the data of each block: of a block that fits a capsule, and of transfers in several commands.
for size in 512 4096 262144; do
  perf protected.$size -r "$ALL ns:3" -q 8 -o $size -w randrw -M 50 -e 'PRCHK=GUARD|APPTAG|REFTAG' -d 60 -t 60 -c 0x1
  perf protected.by-target.$size -r "$ALL ns:3" -q 8 -o $size -w randrw -M 50 -e 'PRACT=1,PRCHK=GUARD|REFTAG' -d 60 -t 60 -c 0x1
done
# Bytes, with memory that begins anywhere and commands of many sizes.
dd if=/dev/urandom of=/tmp/random bs=1M count=16 2>/dev/null
check data.write sh -c "doorbell-lab write '$ONE' </tmp/random"
check data.read sh -c "doorbell-lab read '$SIX' 16777216 >/tmp/back"
check data.same cmp /tmp/random /tmp/back

# --- who does wrong, or goes

check_refused wrong-nqn 40 "$NQN-not" doorbell perf -r "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420 subnqn:$NQN-not" -q 8 -o 4096 -w randread -t 5
# The device goes during I/O, from under both ends, and comes back.
removed() { # NAME [OPTION…]
  removed=$1; shift
  OPTIONS=$*
  interrupted $removed NON-ZERO rdma_delete
  OPTIONS=
  check $removed.target-lives kill -0 $target
  check $removed.added rdma_add
  check $removed.listens wait_for 30 rdma_listening 4420
  perf $removed.again -r "$ONE" -q 8 -o 4096 -w randread -d 100 -t 60 -c 0x1
}
removed device-removed
removed device-removed.interrupts -E
kill_target() { kill -9 $target; }
interrupted target-killed NON-ZERO kill_target
wait $target 2>/dev/null
need target.again start --ram 64M
OPTIONS=-E
interrupted target-killed.interrupts NON-ZERO kill_target
OPTIONS=
wait $target 2>/dev/null
need target.third start --ram 64M
# A host that is killed leaves nothing behind that the next one minds.
for _ in 1 2 3; do
  doorbell perf -r "$ONE" -q 32 -o 4096 -w randrw -M 50 -P 4 -t 60 -c 0x1 >$LOG 2>&1 & host=$!
  wait_for 20 grep -q 'Launching workers' $LOG
  kill -9 $host; wait $host 2>/dev/null
done
perf host-killed.next -r "$ONE" -q 32 -o 4096 -w randrw -M 50 -P 4 -d 400 -t 60 -c 0x1
removed host-killed.device-removed -P4 --rdma-srq-size 128
stop() { kill $target; wait_for 20 ended $target || kill -9 $target; wait $target; }
check target.ends stop

# --- receives that connections share: fewer than commands, where a host may find none

size=32; [ "$SOFT" != siw ] || size=1024
need shared-target start --ram 64M --rdma-srq-size $size
perf shared-target.qpairs -r "$ONE" -q 256 -o 4096 -w randrw -M 50 -P 4 -d 1000 -t 60 -c 0x3
perf shared-target.large -r "$SIX" -q 32 -o 65536 -w randrw -M 50 -P 2 -d 60 -t 60 -c 0x1
# Over iWARP nobody can be told to try again, so there are as many receives as commands, or a word on it.
both=64
if [ "$SOFT" = siw ]; then
  check_refused shared-target.too-few 60 '64 commands or more would share 63 receives.*--rdma-srq-size' \
    doorbell perf -r "$ONE" -q 128 -o 512 -w randwrite -P 4 --rdma-srq-size 63 -t 5 -c 0x1
  both=128
fi
perf shared-target.both -r "$ONE" -q 128 -o 512 -w randwrite -P 4 --rdma-srq-size $both -E -d 1000 -t 60 -c 0x1
check shared-target.write sh -c "doorbell-lab write '$ONE' </tmp/random"
check shared-target.read sh -c "doorbell-lab read '$SIX' 16777216 >/tmp/back"
check shared-target.same cmp /tmp/random /tmp/back
# Hosts that are killed take no receives along.
for _ in 1 2 3 4; do
  doorbell perf -r "$ONE" -q 64 -o 4096 -w randrw -M 50 -P 4 -t 60 -c 0x1 >$LOG 2>&1 & host=$!
  wait_for 20 grep -q 'Launching workers' $LOG
  kill -9 $host; wait $host 2>/dev/null
done
perf shared-target.host-killed -r "$ONE" -q 256 -o 4096 -w randrw -M 50 -P 4 -d 1000 -t 60 -c 0x1
removed shared-target.device-removed
check shared-target.ends stop

# --- a target that does wrong

need fault start --ram 64M --fault 'latency fixed 20ms on read; error 2/81 on write every 10'
perf fault.latency -r "$ONE" -q 4 -o 4096 -w randread -d 100 -t 60 -c 0x1
check fault.latency.kept awk '$1 == "Total" {found = $6 >= 20000} END {exit !found}' $LOG
check_refused fault.error 60 'unrecovered|write fault|02.*81|81h' doorbell perf -r "$ONE" -q 4 -o 4096 -w randwrite -d 100 -t 60 -c 0x1
check fault.ends stop
need fault.reset start --ram 64M --fault 'reset connection at 6s'
nothing() { :; }
interrupted fault.connection NON-ZERO nothing
check fault.connection.ends stop
cp /tmp/target $LOG
check target.no-panic sh -c '! grep "panicked at" /tmp/target'

check kernel-log.quiet sh -c "! dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task'"
finish
