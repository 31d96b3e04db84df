# shellcheck shell=sh
#: machine protection
#: modules virtio_blk nvme
#: seconds 300
# Protection information on QEMU's drive: all three types, guards of 16 and 64 bits, metadata behind the data and apart from it. What this
# process makes the drive checks and the other way round, the same with the kernel's driver, and a block that is changed on the medium is
# found and named.
. /lab/guest.sh
. /lab/drives.sh

ALL=$(pcie $MANY) COUNT=$(wc -l </lab/protected)
namespaces() { while read -r nsid type layout guard block metadata place; do "$@" || return; done </lab/protected; }

need drive wait_for 30 bound $MANY nvme

# --- what the kernel wrote, this process finds right

kernel_has() { [ "$layout" = separate ] && device=$(block_device $MANY "$nsid") && grep -q CRC "/sys/block/${device##*/}/integrity/format"; }
dd if=/dev/urandom of=/tmp/random bs=512k count=1 2>/dev/null
kernel_writes() {
  [ "$layout" = separate ] || return 0
  if kernel_has; then
    check kernel.writes.$nsid dd if=/tmp/random of="$device" bs=512k oflag=direct 2>$LOG
    known="$known $nsid"
  else skip kernel.writes.$nsid "this kernel does not know type $type with a guard of $guard bits $place in $metadata bytes"; fi
}
known=
namespaces kernel_writes
need bind setup bind $MANY
LOAD='-q 4 -o 8192 -d 64 -t 60 -c 0x1' CHECKED='PRCHK=GUARD|APPTAG|REFTAG'
# shellcheck disable=SC2086
for nsid in $known; do perf kernel.wrote.$nsid -r "$(pcie $MANY "$nsid")" -w read -e "$CHECKED" $LOAD; done

# --- what one end makes the other checks, on all namespaces at once

protected() { # NAME WORKLOAD -e
  protected=$1
  # shellcheck disable=SC2086
  perf "$protected" -r "$ALL" -w $2 -e "$3" $LOAD && check "$protected.rows" [ "$(rows)" = "$COUNT" ]
}
protected made-here write "PRACT=0,$CHECKED"
protected made-here.read read "$CHECKED"
protected made-here.by-drive read "PRACT=1,$CHECKED"
protected made-there write 'PRACT=1'
protected made-there.read read "$CHECKED"
# In a sequence: QEMU moves data and metadata of a block one after the other, so that a read beside a write of it may find one of each.
protected mixed 'rw -M 50' "$CHECKED"

# --- a byte changed on the medium: of the data, the application tag and the reference tag

poke() { printf "\\x$2" | dd of=/dev/vda bs=1 seek="$1" conv=notrunc 2>>$LOG; } # OFFSET HEX
change() {
  start=$(((nsid - 1) << 22)) blocks=$((4194304 / (block + metadata))) information=8
  [ "$guard" = 16 ] || information=16
  [ "$place" = first ] && skipped=0 || skipped=$((metadata - information))
  at() { echo $((start + blocks * block + $1 * metadata + skipped + $2)); } # LBA BYTE
  poke $((start + 5 * block + 77)) ee
  # The application tag follows the guard, the reference tag is last.
  poke "$(at 40 $((guard / 8 + 1)))" 5a
  poke "$(at 70 $((information - 1)))" 47
}
need changed namespaces change
# shellcheck disable=SC2086
perf unchecked -r "$ALL" -w read -e PRACT=0 $LOAD
# shellcheck disable=SC2086
check_refused found 90 'Guard Check Error' doorbell perf -r "$ALL" -w read -e "$CHECKED" $LOAD -Q 1
found() {
  said found.$nsid.guard "NSID $nsid from core 0: the guard of the block at LBA 5 is [0-9a-f]+h, not [0-9a-f]+h"
  said found.$nsid.application "NSID $nsid from core 0: the application tag of the block at LBA 40 is 5ah, not 0h"
  # It follows the LBA in types 1 and 2 alone.
  [ "$type" = 3 ] || said found.$nsid.reference "NSID $nsid from core 0: the reference tag of the block at LBA 70 is 47h, not 46h"
}
namespaces found
# shellcheck disable=SC2086
check_refused found.by-drive 90 'Guard Check Error' doorbell perf -r "$ALL" -w read -e "PRACT=1,PRCHK=GUARD" $LOAD
by_drive() { said found.by-drive.$nsid "NSID $nsid from core 0: the guard of the block at LBA 5 is [0-9a-f]+h, not [0-9a-f]+h"; }
namespaces by_drive

# --- what this process wrote, the kernel finds right, but for what is changed then

protected again write "$CHECKED"
set -- $known
start=$((($1 - 1) << 22))
block=$(awk -v nsid="$1" '$1 == nsid {print $5}' /lab/protected)
need reset setup reset $MANY
need kernel wait_for 30 bound $MANY nvme
kernel_reads() {
  case " $known " in *" $nsid "*) ;; *) return 0 ;; esac
  wait_for 20 block_device $MANY "$nsid"
  check kernel.reads.$nsid run 30 dd if="$(block_device $MANY "$nsid")" of=/dev/null bs=64k count=8 iflag=direct
}
namespaces kernel_reads
if [ -n "$1" ]; then
  poke $((start + 5 * block + 77)) ee
  # EILSEQ is how the kernel says it.
  check_refused kernel.finds 30 'incomplete multibyte' dd if="$(block_device $MANY "$1")" of=/dev/null bs=64k count=8 iflag=direct
else skip kernel.finds 'this kernel knows none of the formats'; fi

check kernel-log.quiet kernel_quiet
finish
