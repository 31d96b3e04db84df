# shellcheck shell=sh
#: machine rdma
#: modules configfs ext4
#: programs nvme mkfs.ext4 e2fsck blkdiscard fstrim
#: built siw
#: seconds 1200
# As rdma-kernel-host, over soft iWARP.
SOFT=siw
. /lab/scenarios/rdma-kernel-host.sh
