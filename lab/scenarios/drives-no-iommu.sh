# shellcheck shell=sh
#: machine drives
#: parameters intel_iommu=off
#: modules nvme
#: seconds 120
# The same drives on a machine whose IOMMU the kernel leaves off: nothing can be given away, and how to change that is said.
. /lab/guest.sh
. /lab/drives.sh

need drives wait_for 30 bound $HOT nvme
check status run 20 doorbell setup status
check status.off grep -q 'leaves this machine.s IOMMU (Intel VT-d) off' $LOG
check status.remedy grep -q 'intel_iommu=on .*update-grub && reboot' $LOG
check status.modules grep -q 'modprobe vfio_iommu_type1' $LOG
check status.no-group grep -qE 'IOMMU group +none' $LOG
check_refused bind 20 'leaves this machine.s IOMMU' doorbell setup bind $MANY
check bind.untouched bound $MANY nvme
finish
