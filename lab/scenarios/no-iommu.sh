# shellcheck shell=sh
#: machine drives
#: parameters intel_iommu=off
#: modules nvme
#: built vfio-no-iommu
#: seconds 240
# VFIO without an IOMMU, the last resort: hugepages and root or nothing, and the risk is told.
. /lab/guest.sh
. /lab/drives.sh
QUICK='-q 8 -o 4096 -w randread -d 200 -t 30 -c 0x1'

need drives wait_for 30 bound $HOT nvme
need vfio insmod /lab/vfio-no-iommu.ko
check status.off run 20 doorbell setup status
said status.off.told 'echo Y > */sys/module/vfio/parameters/enable_unsafe_noiommu_mode'
echo Y >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode
modprobe vfio-pci
check bind setup bind $MANY
check status.bound run 20 doorbell setup status
# shellcheck disable=SC2086
check_refused ordinary-pages 20 'huge' doorbell perf -r "$(pcie $MANY 1)" $QUICK
echo 40 >/proc/sys/vm/nr_hugepages
# shellcheck disable=SC2086
perf read -r "$(pcie $MANY 1)" $QUICK
said warned 'IOMMU'
for size in 512 131072 1048576; do perf mixed.$size -r "$(pcie $MANY 1)" -q 8 -o $size -w randrw -M 50 -d 100 -t 30 -c 0x1; done
perf interrupts -r "$(pcie $MANY 2)" -q 8 -o 4096 -w randread -d 100 -t 30 -c 0x1 -E
check_refused plain-user 20 'CAP_SYS_RAWIO|ermi' su -s /bin/sh user -c "doorbell perf -r '$(pcie $MANY 1)' $QUICK"
check reset setup reset $MANY
check reset.bound wait_for 20 bound $MANY nvme
check kernel-log.quiet kernel_quiet
finish
