# shellcheck shell=sh
#: machine rdma
#: modules configfs ext4
#: programs nvme mkfs.ext4 e2fsck blkdiscard fstrim
#: seconds 1200
# The kernel's NVMe/RDMA host against `doorbell target` over soft RoCE: a file system on it, connections broken, the device and the
# target taken away in the middle of writes. Nothing may be lost or torn.
. /lab/guest.sh
. /lab/rdma.sh
. /lab/kernel_host.sh
TRANSPORT=rdma ADDRESS=$V4 LISTEN=rdma:$V4:4420
ready() { rdma_listening 4420; }

need device rdma_up "${SOFT:-rxe}"
need module modprobe nvme-rdma
make_tree /tmp/tree 32

# --- administration

need target.starts start --ram 256M --listen "rdma:[$V6]:4421"
run 30 nvme discover -t rdma -a $V4 -s 4420 --hostnqn=$HOST_NQN --hostid=$HOST_ID
check discover.lists grep -q "subnqn: *$NQN" $LOG
check discover.transport grep -qE 'trtype: *rdma' $LOG
need connect connect
check id-ctrl run 30 nvme id-ctrl /dev/$CTRL
check id-ctrl.subnqn grep -q "^subnqn *: $NQN" $LOG
check id-ctrl.capsule grep -qE '^ioccsz +: [1-9]' $LOG
check id-ns.size sh -c "[ \$((\$(cat /sys/block/${DEV#/dev/}/size) * 512)) = $((256 << 20)) ]"
check smart-log run 30 nvme smart-log /dev/$CTRL
check_refused feature.unknown 30 'invalid' nvme get-feature /dev/$CTRL -f 0x7f

# --- blocks, and the commands a file system sends

for size in 1k 4k 8k 16k 64k 1024k; do check blocks.$size blocks $size; done
check flush run 30 nvme flush $DEV
check write-zeroes zeroes blkdiscard -z -o 0 -l 4194304 $DEV
check discard run 60 blkdiscard -o 0 -l 16777216 $DEV
check after-discard blocks 4k

# --- queues

for options in '--nr-io-queues=1' '--nr-io-queues=2 --nr-write-queues=2' '--queue-size=16' '--queue-size=1024'; do
  name=connect$(echo "$options" | tr -d ' ')
  disconnect
  check "$name" connect $options && check "$name.blocks" blocks 64k
done
disconnect
check ipv6 run 60 nvme connect -t rdma -a $V6 -s 4421 -n $NQN --hostnqn=$HOST_NQN --hostid=$HOST_ID
wait_for 20 find_device && check ipv6.blocks blocks 64k
disconnect

# --- a file system

need fs.connect connect --nr-io-queues=2
need fs.make make_fs
check fs.copy copy one
check fs.sums same_tree /mnt/fs/one
check fs.trim run 120 fstrim /mnt/fs
check fs.unmount unmount
check fs.clean clean

# --- connections broken in the middle of writes

disconnect
need broken.connect connect --keep-alive-tmo=5
need broken.mount run 30 mount $DEV /mnt/fs
broken broken.reset 3 reset
# A target that does nothing for longer than the host waits.
stall() { kill -STOP $TARGET; sleep "$1"; kill -CONT $TARGET; }
broken broken.stalled 1 stall 15
check broken.old-files same_tree /mnt/fs/one
check broken.unmount unmount
check broken.clean clean

# The device goes during I/O. The kernel's host gives its controllers up with it; the target listens again when it is back.
dd if=$DEV of=/dev/null bs=64k iflag=direct >/dev/null 2>&1 & reader=$!
check device-removed rdma_delete
wait_for 30 ended $reader
check device-removed.target-lives kill -0 $TARGET
check device-removed.added rdma_add
check device-removed.listens wait_for 30 ready
need device-removed.connect connect
need device-removed.mount run 30 mount $DEV /mnt/fs
check device-removed.old-files same_tree /mnt/fs/one
check device-removed.unmount unmount
disconnect
check target.stops stop

# --- who may connect

need hosts.start start --ram 64M --hosts $HOST_NQN
check hosts.allowed connect
disconnect
check_refused hosts.refused 60 'failed|denied|could not|error' nvme connect -t rdma -a $V4 -s 4420 -n $NQN \
  --hostnqn=nqn.2014-08.org.nvmexpress:uuid:22222222-2222-3333-4444-555555555555 --hostid=22222222-2222-3333-4444-555555555555
check_refused wrong-nqn 60 'failed|could not|error' nvme connect -t rdma -a $V4 -s 4420 -n $NQN-not --hostnqn=$HOST_NQN --hostid=$HOST_ID
check hosts.stop stop

# --- limits

need limits.start start --ram 32M --max-transfer 64K --max-queues 1 --queue-entries 32
need limits.connect connect
check limits.max-transfer [ "$(cat /sys/block/${DEV#/dev/}/queue/max_hw_sectors_kb)" = 64 ]
check limits.queues [ "$(queues)" = 2 ]
check limits.entries [ "$(cat /sys/class/nvme/$CTRL/sqsize)" = 31 ]
check limits.blocks blocks 1024k
disconnect
check limits.stop stop

# --- protected blocks: the host has no place for what stands behind their data, so the target makes it and takes it away

need protected.start start --ram 16M,metadata=8,pi=1
need protected.connect connect
for size in 4k 64k; do check protected.$size blocks $size; done
perf protected.read -r "trtype:rdma adrfam:IPv4 traddr:$V4 trsvcid:4420 subnqn:$NQN ns:1" -q 8 -o 4096 -w read -e 'PRCHK=GUARD|APPTAG|REFTAG' -d 1000 \
  -t 60 -c 0x1
disconnect
check protected.stop stop

# --- receives that connections share

size=64; [ "$SOFT" != siw ] || size=1024
need shared.start start --ram 256M --rdma-srq-size $size
need shared.connect connect --nr-io-queues=2
check shared.blocks blocks 4k
check shared.blocks.large blocks 1024k
need shared.make make_fs
check shared.copy copy one
check shared.sums same_tree /mnt/fs/one
broken shared.reset 2 reset
check shared.unmount unmount
check shared.clean clean
disconnect
check shared.stop stop

# --- a file behind the namespace: what was flushed outlives the target

modprobe brd rd_nr=1 rd_size=262144
mkdir -p /data
need file.disk run 60 mkfs.ext4 -q -F /dev/ram0
need file.disk.mount run 30 mount /dev/ram0 /data
truncate -s 192M /data/disk
need file.start start --file /data/disk
need file.connect connect
need file.make make_fs
check file.copy copy one
check file.sums same_tree /mnt/fs/one
broken file.killed 2 kill_target
check file.killed.old-files same_tree /mnt/fs/one
check file.unmount unmount
check file.clean clean

disconnect
check file.end stop

cp /tmp/target $LOG
check target.no-panic sh -c '! grep "panicked at" /tmp/target'
dmesg >$LOG
check kernel-log.quiet [ -z "$(troubles)" ]
finish
