# shellcheck shell=sh
#: machine rdma
#: modules configfs
#: programs doorbell-lab
#: built siw
#: seconds 900
# As rdma, over soft iWARP.
SOFT=siw
. /lab/scenarios/rdma.sh
