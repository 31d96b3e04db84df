# shellcheck shell=sh
#: machine rdma
#: modules configfs nvmet nvme-fabrics
#: programs doorbell-lab
#: seconds 1500
#: on-demand
# As rdma-kernel-target, and the device is removed during I/O.
REMOVAL=1
. /lab/scenarios/rdma-kernel-target.sh
