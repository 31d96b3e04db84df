# shellcheck shell=sh
# RDMA in the guest: a soft device on the network card of the machine `rdma` (lab/machines/rdma).

V4=192.168.159.142 V6=fd00:142::1

# Loads what a soft device needs and puts one on the card.
rdma_up() { # rxe|siw
  KIND=$1
  # Soft RoCE does not say that it misses the checksum; ip and rdma by path, as busybox has an ip of its own.
  modprobe crc32_generic
  for module in virtio_net ib_uverbs rdma_ucm; do modprobe $module || return; done
  case $KIND in rxe) modprobe rdma_rxe ;; siw) insmod /lab/siw.ko ;; esac || return
  /bin/ip link set eth0 up
  /bin/ip address add $V4/24 dev eth0
  /bin/ip address add $V6/64 dev eth0 nodad
  rdma_add
}
rdma_add() { /bin/rdma link add $KIND type $KIND netdev eth0; }
rdma_delete() { /bin/rdma link delete $KIND; }
