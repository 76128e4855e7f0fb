#!/bin/sh
# Installs the system packages that Perilune's sandbox needs, and those asked for with --with.
#
#   scripts/setup_system.sh                   bubblewrap, util-linux
#   scripts/setup_system.sh --with chromium   also the browser of the `browse` tool
#   scripts/setup_system.sh --with postgresql also the database of a cluster (for its tests)
#
# As root on a Debian-like system it installs what is missing; otherwise it prints the one line to
# run and exits 1. When all is there it does nothing, quickly.
set -eu

wanted="bubblewrap util-linux"
while [ $# -gt 0 ]; do
    case "$1" in
        --with)
            [ $# -ge 2 ] || { echo "setup_system: --with needs a name" >&2; exit 2; }
            case "$2" in
                chromium | postgresql) wanted="$wanted $2" ;;
                *) echo "setup_system: unknown extra '$2' (there are: chromium, postgresql)" >&2; exit 2 ;;
            esac
            shift 2
            ;;
        *) echo "usage: $0 [--with chromium] [--with postgresql]" >&2; exit 2 ;;
    esac
done

program_of() {
    case "$1" in
        bubblewrap) echo bwrap ;;
        util-linux) echo setpriv ;;
        postgresql) # Debian keeps the server's programs out of the path
            found=$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -n 1)
            echo "${found:-initdb}"
            ;;
        *) echo "$1" ;;
    esac
}

missing=""
for package in $wanted; do
    command -v "$(program_of "$package")" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be there already; fetch them only when the install does not work without.
    # shellcheck disable=SC2086
    apt-get install -y --no-install-recommends $missing >/dev/null 2>&1 || {
        apt-get update -qq
        apt-get install -y --no-install-recommends $missing
    }
    for package in $missing; do
        command -v "$(program_of "$package")" >/dev/null 2>&1 || {
            echo "setup_system: $package was installed, but $(program_of "$package") is not there" >&2
            exit 1
        }
    done
elif command -v apt-get >/dev/null 2>&1; then
    echo "run: sudo apt-get install -y$missing" >&2
    exit 1
elif command -v dnf >/dev/null 2>&1; then
    echo "run: sudo dnf install -y$missing" >&2
    exit 1
elif command -v pacman >/dev/null 2>&1; then
    echo "run: sudo pacman -S --needed$missing" >&2
    exit 1
else
    echo "install with your package manager:$missing" >&2
    exit 1
fi
