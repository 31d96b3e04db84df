# shellcheck shell=sh
#: modules configfs nvme-tcp ext4 tcp_diag
#: programs nvme ss mkfs.ext4 e2fsck blkdiscard fstrim
#: seconds 900
# The kernel's NVMe/TCP host against `doorbell target` in the same guest: administration, a file system on
# it, connections broken and targets killed in the middle of writes. Nothing may be lost or torn.
. /lab/guest.sh
. /lab/kernel_host.sh
TRANSPORT=tcp ADDRESS=127.0.0.1 LISTEN=127.0.0.1:4420
ready() { listening 4420; }

make_tree /tmp/tree 32

# --- administration

need target.starts start --ram 256M
run 30 nvme discover -t tcp -a 127.0.0.1 -s 4420 --hostnqn=$HOST_NQN --hostid=$HOST_ID
check discover.lists grep -q "subnqn: *$NQN" $LOG
need connect connect
check list run 30 nvme list
check list.device grep -q "$DEV " $LOG
check list-subsys run 30 nvme list-subsys
check id-ctrl run 30 nvme id-ctrl /dev/$CTRL
check id-ctrl.subnqn grep -q "^subnqn *: $NQN" $LOG
check id-ctrl.serial grep -qE '^sn +: [^ ]' $LOG
check id-ctrl.model grep -qE '^mn +: [^ ]' $LOG
check id-ctrl.firmware grep -qE '^fr +: [^ ]' $LOG
check id-ctrl.namespaces grep -qE '^nn +: [1-9]' $LOG
check id-ctrl.keep-alive grep -qE '^kas +: [1-9]' $LOG
check id-ctrl.capsule grep -qE '^ioccsz +: [1-9]' $LOG
check id-ns run 30 nvme id-ns $DEV
check id-ns.size sh -c "[ \$((\$(cat /sys/block/${DEV#/dev/}/size) * 512)) = $((256 << 20)) ]"
check id-ns.format grep -q '(in use)' $LOG
check list-ns run 30 nvme list-ns /dev/$CTRL
check list-ns.first grep -q '0x1' $LOG
check ns-descs run 30 nvme ns-descs $DEV
check ns-descs.identifier grep -qE 'uuid|nguid|eui64' $LOG
check smart-log run 30 nvme smart-log /dev/$CTRL
check smart-log.healthy grep -qE '^critical_warning[[:space:]]*: 0$' $LOG
check error-log run 30 nvme error-log /dev/$CTRL
check fw-log run 30 nvme fw-log /dev/$CTRL
check effects-log run 30 nvme effects-log /dev/$CTRL
check changed-ns-list-log run 30 nvme changed-ns-list-log /dev/$CTRL
check feature.queues run 30 nvme get-feature /dev/$CTRL -f 7
check feature.events run 30 nvme get-feature /dev/$CTRL -f 0xb
check feature.keep-alive run 30 nvme get-feature /dev/$CTRL -f 0xf
# Memory has no cache in front of it, and says so.
check_refused feature.write-cache 30 'invalid' nvme get-feature /dev/$CTRL -f 6
for offset in 0x0 0x8 0x14 0x1c; do check property.$offset run 30 nvme get-property /dev/$CTRL -o $offset; done
check_refused property.reserved 30 'invalid|no such|fail|error' nvme get-property /dev/$CTRL -o 0xffc
check_refused feature.unknown 30 'invalid' nvme get-feature /dev/$CTRL -f 0x7f
check_refused log.unknown 30 'invalid' nvme get-log /dev/$CTRL -i 0x7f -l 512

# --- blocks, and the commands a file system sends

for size in 1k 4k 16k 64k 1024k; do check blocks.$size blocks $size; done
check flush run 30 nvme flush $DEV
check write-zeroes zeroes blkdiscard -z -o 0 -l 4194304 $DEV
check discard run 60 blkdiscard -o 0 -l 16777216 $DEV
check discard.all run 60 blkdiscard $DEV
check after-discard blocks 4k
head -c 4096 /dev/urandom >/tmp/block
dd if=/tmp/block of=$DEV bs=4096 oflag=direct 2>/dev/null
lba=$(cat /sys/block/${DEV#/dev/}/queue/logical_block_size)
check compare run 30 nvme compare $DEV -s 0 -c $((4096 / lba - 1)) -z 4096 -d /tmp/block
printf X | dd of=/tmp/block conv=notrunc 2>/dev/null
check_refused compare.different 30 'compare' nvme compare $DEV -s 0 -c $((4096 / lba - 1)) -z 4096 -d /tmp/block
check_refused beyond-end 30 'range|capacity|invalid' nvme read $DEV -s $(((256 << 20) / lba)) -c 0 -z $lba -d /dev/null

# --- queues

for options in '--nr-io-queues=1' '--nr-io-queues=2 --nr-write-queues=2' '--queue-size=16' '--queue-size=1024' \
  '--hdr-digest' '--data-digest' '--hdr-digest --data-digest'; do
  name=connect$(echo "$options" | tr -d ' ')
  disconnect
  check "$name" connect $options && check "$name.blocks" blocks 64k
done
disconnect
connect --nr-io-queues=2 --nr-write-queues=2
check queues.count [ "$(queues)" = 5 ]

# --- a file system

need fs.make make_fs
check fs.copy copy one
check fs.sums same_tree /mnt/fs/one
check fs.unmount unmount
check fs.clean clean

# Connects anew with digests, finds the same files, and writes more.
disconnect
need fs-digest.connect connect --hdr-digest --data-digest
need fs-digest.mount run 30 mount $DEV /mnt/fs
check fs-digest.sums same_tree /mnt/fs/one
check fs-digest.copy copy two
check fs-digest.sums-of-copy same_tree /mnt/fs/two
run 60 rm -r /mnt/fs/two
check fs-digest.trim run 120 fstrim /mnt/fs
check fs-digest.unmount unmount
check fs-digest.clean clean

# --- connections broken in the middle of writes

kill_sockets() { ss -K dst 127.0.0.1 dport = :4420; }
cut_link() { ip link set lo down; sleep "$1"; ip link set lo up; }

for digest in '' '--hdr-digest --data-digest'; do
  part=broken; [ -z "$digest" ] || part=broken-digest
  disconnect
  need $part.connect connect --keep-alive-tmo=5 $digest
  need $part.mount run 30 mount $DEV /mnt/fs
  broken $part.reset 3 reset
  broken $part.sockets 3 kill_sockets
  [ -n "$digest" ] || broken $part.link 1 cut_link 12
  check $part.old-files same_tree /mnt/fs/one
  check $part.unmount unmount
  check $part.clean clean
done
disconnect
check target.stops stop

# --- who may connect

need hosts.start start --ram 64M --hosts $HOST_NQN
check hosts.allowed connect
disconnect
check_refused hosts.refused 60 'failed|denied|could not|error' nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $NQN \
  --hostnqn=nqn.2014-08.org.nvmexpress:uuid:22222222-2222-3333-4444-555555555555 --hostid=22222222-2222-3333-4444-555555555555
check_refused wrong-nqn 60 'failed|could not|error' nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $NQN-not --hostnqn=$HOST_NQN --hostid=$HOST_ID
check hosts.stop stop

# --- several namespaces, addresses and limits

need several.start start --ram 32M --null 1G --ram 64M,block=4096 --listen '[::1]:4421' --max-transfer 64K --max-queues 1 --queue-entries 32
need several.connect connect
# Linux numbers block devices in the order it scans them, which is not that of the namespace identifiers.
by_nsid() { for d in /sys/block/"${CTRL}"n*; do [ "$(cat "$d/nsid")" != "$1" ] || echo "${d##*/}"; done; }
sizes() { for n in 1 2 3; do d=/sys/block/$(by_nsid $n); cat "$d/size" "$d/queue/logical_block_size"; done | tr '\n' ' '; }
DEV=${DEV#/dev/}
wait_for 10 [ -e /sys/block/${DEV%1}3 ]
DEV=$(by_nsid 3)
check several.sizes [ "$(sizes)" = "65536 512 2097152 512 131072 4096 " ]
check several.max-transfer [ "$(cat /sys/block/$DEV/queue/max_hw_sectors_kb)" = 64 ]
check several.queues [ "$(queues)" = 2 ]
check several.entries [ "$(cat /sys/class/nvme/$CTRL/sqsize)" = 31 ]
DEV=/dev/$DEV
check several.blocks blocks 1024k
disconnect
check several.ipv6 run 60 nvme connect -t tcp -a ::1 -s 4421 -n $NQN --hostnqn=$HOST_NQN --hostid=$HOST_ID
disconnect
check several.stop stop

# --- a file behind the namespace: what was flushed outlives the target

modprobe brd rd_nr=1 rd_size=262144
mkdir -p /data
need file.disk run 60 mkfs.ext4 -q -F /dev/ram0
need file.disk.mount run 30 mount /dev/ram0 /data
truncate -s 192M /data/disk
need file.start start --file /data/disk
need file.connect connect
check file.size sh -c "[ \$((\$(cat /sys/block/${DEV#/dev/}/size) * 512)) = $((192 << 20)) ]"
check file.write-cache run 30 nvme get-feature /dev/$CTRL -f 6
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
check kernel-log.quiet [ -z "$(troubles)" ]
finish
