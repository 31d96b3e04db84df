# shellcheck shell=bash
# Modules that Debian's kernel leaves out, built from its own source against its headers; nothing is installed but a
# compiler. Sourced by lab/boot where a module is asked for. lab/modules/NAME.kbuild says how: its first line names the folder
# of the source, the rest is what Kbuild reads.

# Sets HEADERS: the folder to build against.
get_headers() {
  local root=$CACHE/headers package
  HEADERS=$root/usr/src/linux-headers-$KV
  [ ! -e "$root/ready" ] || return 0
  rm -rf "$root"; mkdir -p "$root"
  for package in "linux-headers-$KV" "linux-headers-${KV%-amd64}-common" "linux-kbuild-${KV%-amd64}"; do
    unpack_package "$1" "$package" "$root.part" || broken "$package could not be fetched"
    cp -a "$root.part/." "$root"; rm -rf "$root.part"
  done
  # It names where it would be installed.
  sed -i "s#/usr/src/#$root/usr/src/#" "$HEADERS/Makefile"
  touch "$root/ready"
}

# Sets SOURCE: the archive of the kernel's source.
get_source() {
  local package=linux-source-${KV%%.*}.$(cut -d. -f2 <<<"$KV")
  SOURCE=$CACHE/source/usr/src/$package.tar.xz
  [ -e "$SOURCE" ] && return
  unpack_package "$1" "$package" "$CACHE/source" || broken "$package could not be fetched"
}

# Sets MODULE: the file of a built module.
get_module() { # NAME
  local recipe=$LAB/modules/$1.kbuild folder work source suite need
  [ -f "$recipe" ] || broken "no lab/modules/$1.kbuild"
  source=$(sed -n '1s/^# source //p' "$recipe")
  folder=$CACHE/built/$KV-$(sha256sum <"$recipe" | cut -c1-16)
  MODULE=$folder/$(sed -n 's/^obj-m := \(.*\)\.o$/\1/p' "$recipe").ko
  [ -e "$MODULE" ] && return
  mapfile -t need < <(missing make=make gcc=gcc)
  install_packages "${need[@]}"
  private_apt
  case $KV in 6.1.*) suite=$(kernel_suites | tail -n 1) ;; *) suite=$(kernel_suites | head -n 1) ;; esac
  get_headers "$suite"; get_source "$suite"
  say "building module $1"
  work=$folder.tmp
  rm -rf "$work"; mkdir -p "$work" "$folder"
  tar -xf "$SOURCE" -C "$work" --strip-components=1 "$(basename "$SOURCE" .tar.xz)/$source" || broken "no $source in $SOURCE"
  cp "$recipe" "$work/$source/Makefile"
  make -s -C "$HEADERS" CC=gcc CONFIG_DEBUG_INFO_BTF_MODULES= M="$work/$source" modules >"$CACHE/built.log" 2>&1 ||
    { tail -n 20 "$CACHE/built.log" >&2; broken "building module $1; see $CACHE/built.log"; }
  mv "$work/$source/${MODULE##*/}" "$folder"
  rm -rf "$work"
}
