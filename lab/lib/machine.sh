# shellcheck shell=bash
# What the lab needs from the machine it runs on: packages, Debian's stock kernel, and the part of the
# guest's initramfs that does not change from boot to boot. Sourced by lab/boot and by ./test.
#
# Everything fetched or built is kept under $CACHE. The machine's own apt lists and configuration are
# read, never written: a private apt configuration reuses the mirror they name.

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${DOORBELL_LAB_CACHE:-$LAB/cache}

# The status with which the lab says "not possible on this machine", as opposed to "went wrong".
readonly CANNOT=3

# Modules put into the initramfs, with what they depend on; a scenario says which of them to load.
MODULES="virtio_pci virtio_console virtio_net virtio_blk null_blk brd loop ext4 crc32c_generic crc32c_intel crc32_generic libcrc32c
  configfs nvme nvme-core nvme-fabrics nvme-tcp nvmet nvmet-tcp inet_diag tcp_diag
  nvme-auth nvme-keyring tls nvme-rdma nvmet-rdma rdma_rxe rdma_ucm vfio-pci vfio_iommu_type1 veth dummy dm-mod"

say() { printf 'lab: %s\n' "$*" >&2; }
cannot() { say "cannot run here: $*"; exit $CANNOT; }
broken() { say "failed: $*"; exit 1; }

# PROGRAM=PACKAGE pairs, from the arguments, of which the program is missing.
missing() {
  local pair
  for pair; do command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"; done
}

codename() { (. /etc/os-release && echo "${ID:-} ${VERSION_CODENAME:-}"); }

# Where kernels may come from, the wanted one first: 6.12 is a backport on Debian 12 and stock on 13.
kernel_suites() {
  local release; release=$(codename); release=${release#* }
  [ "$release" = bookworm ] && echo bookworm-backports
  echo "$release"
}

# A private apt, used through APT_CONFIG: the package sources of Debian that the machine has, and backports.
private_apt() {
  local a=$CACHE/apt release sources keyring=/usr/share/keyrings/debian-archive-keyring.gpg options=
  export APT_CONFIG=$a/apt.conf
  [ -n "$(find "$a/fetched" -mmin -1440 2>/dev/null)" ] && return
  release=$(codename); release=${release#* }
  sources=$(APT_CONFIG='' apt-get indextargets --format '$(SITE) $(RELEASE)' 'Created-By: Packages' |
    awk -v r="$release" '$2 == r || index($2, r "-") == 1' | sort -u)
  grep -q " $release\$" <<<"$sources" || cannot "apt has no package source for Debian $release"
  mkdir -p "$a"/lists/partial "$a"/cache/archives/partial
  [ -r "$keyring" ] && options="[signed-by=$keyring] "
  awk -v o="$options" '{print "deb " o $1 " " $2 " main"}' <<<"$sources" >"$a/sources.list"
  if [ "$release" = bookworm ] && ! grep -q ' bookworm-backports ' "$a/sources.list"; then
    awk -v o="$options" '$2 == "bookworm" && !n++ {print "deb " o $1 " bookworm-backports main"}' <<<"$sources" >>"$a/sources.list"
  fi
  cat >"$a/apt.conf" <<CONF
Dir::Etc::sourcelist "$a/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$a/lists";
Dir::Cache "$a/cache";
APT::Sandbox::User "$(id -un)";
Acquire::Retries "3";
CONF
  say "fetching package lists"
  apt-get -qq update || say "some package lists could not be fetched; going on with the others"
  touch "$a/fetched"
}

# Installs packages, or says which to install. Backports are the second choice: needed where a machine
# already holds a newer part of the same family.
install_packages() {
  [ $# -gt 0 ] || return 0
  command -v apt-get >/dev/null || cannot "install these (Debian's names) with your system's package manager: $*"
  [ "$(id -u)" = 0 ] || cannot "needs packages; as root: apt-get install $*"
  private_apt
  local log=$CACHE/install.log suite
  export DEBIAN_FRONTEND=noninteractive
  for suite in $(kernel_suites | sort); do
    say "installing from $suite: $*"
    apt-get install -qq -y --no-install-recommends -t "$suite" "$@" >"$log" 2>&1 && return
  done
  tail -n 20 "$log" >&2
  broken "apt-get install $*"
}

install_needed() {
  local need
  case $(uname -m) in x86_64) ;; *) cannot "the guest is x86-64 and so are the programs put into it; this is $(uname -m)" ;; esac
  case $(codename) in debian\ ?*) ;; *) cannot "the lab boots Debian's kernel, fetched by Debian's apt; this is $(codename)" ;; esac
  PATH=$PATH:/usr/sbin:/sbin
  mapfile -t need < <(missing qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod zstd=zstd xz=xz-utils \
    nvme=nvme-cli mkfs.ext4=e2fsprogs ss=iproute2 rping=rdmacm-utils dmsetup=dmsetup)
  [ -e /etc/libibverbs.d/rxe.driver ] || need+=(ibverbs-providers)
  install_packages "${need[@]}"
}

# Fetches a package and unpacks it into a folder, without installing it: a kernel's hooks and busybox-static's
# conflict with busybox stay away from the machine.
unpack_package() { # SUITE PACKAGE FOLDER
  local d=$3.tmp
  rm -rf "$d"; mkdir -p "$d/deb"
  (cd "$d/deb" && apt-get -qq -t "$1" download "$2") && dpkg --fsys-tarfile "$d"/deb/*.deb | tar -x -C "$d" --exclude='./usr/share/doc*' || return 1
  rm -rf "$d/deb" "$3"; mv "$d" "$3"
}

# Sets KERNEL (folder), KV (version) and VMLINUX.
get_kernel() {
  KERNEL=$CACHE/kernel
  if [ ! -e "$KERNEL/vmlinux" ]; then
    private_apt
    local suite package
    for suite in $(kernel_suites); do
      package=$(apt-cache -o APT::Default-Release="$suite" show --no-all-versions linux-image-amd64 2>/dev/null |
        awk '/^Depends:/ && !n++ {print $2}')
      [ -n "$package" ] && say "fetching $package from $suite" && unpack_package "$suite" "$package" "$KERNEL" && break
    done
    [ -d "$KERNEL" ] || broken "no kernel package could be fetched"
    KV=$(ls "$KERNEL/lib/modules")
    depmod -b "$KERNEL" "$KV"
    unpack_vmlinux "$KERNEL/boot/vmlinuz-$KV" >"$KERNEL/vmlinux.tmp"
    mv "$KERNEL/vmlinux.tmp" "$KERNEL/vmlinux"
  fi
  KV=$(ls "$KERNEL/lib/modules"); VMLINUX=$KERNEL/vmlinux
}

# The ELF kernel inside a bzImage. QEMU enters it directly (PVH), which spares the emulated processor
# the real-mode start and the decompression. Fields: Linux x86 boot protocol, setup header.
unpack_vmlinux() {
  local sectors offset length
  sectors=$(od -An -tu1 -j $((0x1f1)) -N1 "$1" | tr -d ' ')
  read -r offset length < <(od -An -tu4 -j $((0x248)) -N8 "$1")
  # The last four bytes of the payload are its unpacked size.
  dd if="$1" of="$CACHE/payload" bs=1M iflag=skip_bytes,count_bytes skip=$(((sectors + 1) * 512 + offset)) count=$((length - 4)) status=none
  case $(od -An -tx1 -N4 "$CACHE/payload" | tr -d ' ') in
    28b52ffd) zstd -qdc "$CACHE/payload" ;;
    fd377a58) xz -dc "$CACHE/payload" ;;
    1f8b*) gzip -dc "$CACHE/payload" ;;
    *) broken "the kernel image $1 is compressed in an unknown way" ;;
  esac
  rm "$CACHE/payload"
}

get_busybox() {
  BUSYBOX=$CACHE/busybox/bin/busybox
  [ -x "$BUSYBOX" ] && return
  private_apt
  unpack_package "$(kernel_suites | tail -n 1)" busybox-static "$CACHE/busybox" || broken "busybox-static could not be fetched"
  [ -x "$BUSYBOX" ] || BUSYBOX=$CACHE/busybox/usr/bin/busybox
  [ -x "$BUSYBOX" ] || broken "busybox-static holds no busybox"
}

guest_folders() { mkdir -p "$1"/{bin,sbin,etc,proc,sys,dev,tmp,run,root,mnt,lib,lib64,usr/bin,usr/sbin,usr/lib,lab}; }

pack() { # FOLDER: a cpio archive on standard output
  (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc -R 0:0 --quiet)
}

# A program and every shared library it names, into the tree of a guest.
put_program() { # SOURCE DESTINATION TREE
  local source=$1 tree=$3 lib
  [ -x "$source" ] || broken "$source is not a program"
  install -D -m755 "$source" "$tree$2"
  { ldd "$source" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | while read -r lib; do
    [ -e "$tree$lib" ] || install -D -m755 "$(readlink -f "$lib")" "$tree$lib"
  done
}

# Sets BASE: busybox, the guest's init and the modules, uncompressed; rebuilt when one of them changes.
get_base() {
  local key tree module file
  key=$({ cat "$LAB/lib/machine.sh" "$LAB/lib/init"; echo "$KV"; } | sha256sum | cut -c1-16)
  BASE=$CACHE/base-$key.cpio
  [ -e "$BASE" ] && return
  tree=$(mktemp -d)
  guest_folders "$tree"
  cp "$BUSYBOX" "$tree/bin/busybox"
  install -m755 "$LAB/lib/init" "$tree/init"
  for module in $MODULES; do
    modprobe -d "$KERNEL" -S "$KV" --show-depends "$module" 2>/dev/null || say "no module $module in $KV"
  done | awk '$1 == "insmod" {print $2}' | sort -u | while read -r file; do
    module=$tree/${file#"$KERNEL"/}; module=${module%.xz}
    mkdir -p "${module%/*}"
    case $file in *.xz) xz -dc "$file" >"$module" ;; *) cp "$file" "$module" ;; esac
  done
  cp "$KERNEL/lib/modules/$KV"/modules.{builtin,order,builtin.modinfo} "$tree/lib/modules/$KV/"
  depmod -b "$tree" "$KV"
  rm -f "$CACHE"/base-*.cpio
  pack "$tree" >"$BASE.tmp" && mv "$BASE.tmp" "$BASE"
  rm -rf "$tree"
}

# Two runs side by side would build the same files: the second waits.
locked() { # COMMAND…
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"; flock -w 1200 9 || broken "another run holds $CACHE/lock"
  "$@"
  exec 9>&-
}

get_all() { install_needed; get_kernel; get_busybox; get_base; }
prepare() { locked get_all; }
