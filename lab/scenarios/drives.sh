# shellcheck shell=sh
#: machine drives
#: modules nvme ext4
#: programs mkfs.ext4
#: seconds 600
# NVMe drives behind an IOMMU: what keeps them from being driven and who uses them, moving them to vfio-pci and back, driving them.
. /lab/guest.sh
. /lab/drives.sh

setup() { run 60 doorbell setup "$@"; }
said() { check "$1" grep -qE "$2" $LOG; } # NAME PATTERN
echo 'user:x:1000:1000::/tmp:/bin/sh' >>/etc/passwd
as_user() { run 60 su -s /bin/sh user -c "$*"; }

for drive in $MANY $CMB $TWIN_A $TWIN_B $HOT; do need drives wait_for 30 bound $drive nvme; done
MANY1=$(block_device $MANY 1) CMB1=$(block_device $CMB 1) TWIN1=$(block_device $TWIN_A 1) HOT1=$(block_device $HOT 1)
TWIN2=$(block_device $TWIN_B 1)

# --- what is in the way, and who uses what

run 30 mkfs.ext4 -q "$CMB1"
mkdir -p /mnt/cmb
mount "$CMB1" /mnt/cmb
mkswap "$TWIN2" >/dev/null
swapon "$TWIN2"
# A mount that only another name space sees.
run 30 mkfs.ext4 -q "$HOT1"
unshare -m sh -c "mount $HOT1 /mnt && touch /tmp/hidden && exec sleep 1000" & hidden=$!
wait_for 10 test -e /tmp/hidden
sleep 1000 <"$TWIN1" & reader=$!

check status setup status
for drive in $MANY $CMB $TWIN_A $TWIN_B $HOT; do said status.lists-$drive "^$drive +QEMU NVMe Ctrl, serial LAB-"; done
said status.iommu 'IOMMU +dmar'
said status.module 'modprobe vfio-pci'
said status.type1 'modprobe vfio_iommu_type1'
said status.no-huge-pages 'setup bind --hugepages'
said status.driver 'driver +nvme \(nvme[0-9]+\)'
said status.namespaces "namespaces .*${MANY1##*/}"
said status.bind "doorbell setup bind $MANY"
said status.mounted "${CMB1##*/} is mounted on /mnt/cmb"
said status.umount 'umount /mnt/cmb'
said status.swap "swapoff $TWIN2"
said status.elsewhere "${HOT1##*/} is opened exclusively"
said status.reader "process $reader .*sleep 1000.* has nvme"
said status.kill "kill $reader"
said status.group "with $TWIN_B \(nvme\)"
check status.json setup status --json
said status.json.serial '"serial": "LAB-MANY"'
check status.user as_user doorbell setup status
said status.user.pinned 'may pin +at most'
said status.user.driver "doorbell setup bind $MANY"

# --- to vfio-pci

check_refused bind.user 20 'run this as root|modprobe' su -s /bin/sh user -c "doorbell setup bind $MANY"
check bind setup bind $MANY --hugepages 16
said bind.hugepages '16 to .*hugepages-2048kB/nr_hugepages'
said bind.modprobe 'modprobe vfio_iommu_type1'
said bind.override "vfio-pci to .*driver_override"
said bind.done "$MANY: vfio-pci has it"
check bind.link bound $MANY vfio-pci
check bind.again setup bind $MANY
said bind.again.told 'has it already'
for drive in $CMB $TWIN_A $TWIN_B $HOT; do
  check_refused bind.in-use.$drive 20 "$drive is in use and was not touched" doorbell setup bind $drive
  check bind.in-use.$drive.untouched bound $drive nvme
done
check_refused bind.no-such-serial 20 'force LAB-NONE' doorbell setup bind $CMB --force LAB-NONE
check_refused bind.no-such-device 20 'no PCI function 0000:0a:00.0' doorbell setup bind 0a:00.0
check_refused bind.other-class 20 'is no NVMe device' doorbell setup bind 0000:00:1f.2
kill $reader
check bind.half-a-group wait_for 10 doorbell setup bind $TWIN_A
check status.bound setup status
said status.ready "ready .*trtype:PCIE traddr:$MANY"
said status.group-held "holds $TWIN_B too, which the driver nvme has"
check status.not-of-user as_user doorbell setup status
said status.not-of-user.chown 'chown 1000 /dev/vfio/'
swapoff "$TWIN2"
check bind.all setup bind --all
said bind.all.in-use "$CMB is in use and stays"
check bind.all.twin bound $TWIN_B vfio-pci
check bind.all.in-use.untouched bound $CMB nvme
kill $hidden
umount /mnt/cmb
check bind.unmounted wait_for 20 doorbell setup bind $CMB $HOT

# --- and back

sleep 1000 7<>/dev/vfio/"$(group $MANY)" & holder=$!
check_refused reset.held 20 "$MANY is in use and was not touched: process $holder" doorbell setup reset $MANY
kill $holder
check reset wait_for 20 doorbell setup reset $MANY
check reset.namespaces wait_for 20 block_device $MANY 5
check reset.all setup reset --all
for drive in $MANY $CMB $TWIN_A $TWIN_B $HOT; do check reset.$drive bound $drive nvme; done

check kernel-log.quiet sh -c "! dmesg | grep -E 'BUG:|WARNING:|Oops|general protection|hung task|DMAR.*fault'"
finish
