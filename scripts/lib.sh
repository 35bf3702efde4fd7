# Shared by the scripts: find a Python, install Debian packages, create virtual environments.
# Source it from bash, with `root` set to the directory of the checkout.
# shellcheck shell=bash

SUPPORTED=(3.15 3.14 3.13 3.12 3.11)

heading() {
    printf '\n== %s\n' "$*"
}

# As root, or with a sudo that needs no password; otherwise it fails.
apt_install() {
    local as_root=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    command -v apt-get >/dev/null || return 1
    if ((EUID != 0)); then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n "${as_root[@]}")
    fi
    "${as_root[@]}" update && "${as_root[@]}" install --yes --no-install-recommends "$@" >/dev/null
}

# The same for packages with a service: Debian would start it at once, but only the program is needed. (Exit code
# 101 of policy-rc.d means "no"; an existing file is left as it is.)
apt_install_without_starting() (
    policy=/usr/sbin/policy-rc.d as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    command -v apt-get >/dev/null || exit 1
    if [[ ! -e $policy ]]; then
        trap '"${as_root[@]}" rm -f "$policy" 2>/dev/null' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin "$policy" 2>/dev/null || exit 1
    fi
    apt_install "$@"
)

need_chromium() {
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        heading "Chromium"
        apt_install chromium chromium-driver
    fi
}

# usable 3.13 PATH-OF-PYTHON: is it a released Python of this version that can create virtual environments? 3.14t is the
# free-threaded 3.14.
usable() {
    "$2" - "$1" <<'PYTHON' 2>/dev/null
import ensurepip, sys, venv
version = "%d.%d" % sys.version_info[:2] + "t" * ("t" in sys.abiflags)
sys.exit(sys.argv[1] != version or sys.version_info.releaselevel != "final")
PYTHON
}

# find_pythons VERSION…: prints one line "VERSION PATH" for each of these that this machine has.
# A pyenv shim on the PATH may belong to a version that is not activated, so pyenv's versions are searched, too.
find_pythons() {
    local version candidate
    for version in "$@"; do
        while read -r candidate; do
            if [[ -x $candidate ]] && usable "$version" "$candidate"; then
                echo "$version $candidate"
                break
            fi
        done < <(
            type -aP "python$version" || true
            printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"${version%t}".*/bin/python
            type -aP python3 || true
        )
    done
}

# Fills `pythons` with the lines of find_pythons; installs Debian's Python if there is none.
need_pythons() {
    mapfile -t pythons < <(find_pythons "${SUPPORTED[@]}")
    if ((${#pythons[@]} == 0)) && apt_install python3 python3-venv; then
        mapfile -t pythons < <(find_pythons "${SUPPORTED[@]}")
    fi
    if ((${#pythons[@]} == 0)); then
        echo "No Python of 3.11 or newer with venv was found." >&2
        exit 1
    fi
}

# make_venv DIRECTORY "VERSION PATH" CONSTRAINTS GROUP: creates an environment with the package, all extras and the
# dependency group.
make_venv() {
    make_venv_with "$1" "$2" "$3" --group "$4" "${itself[@]}"
}

# The package as an argument of pip, from the root of the checkout.
itself=(--editable ".[cli,encrypted,oidc,redis,sqlalchemy]")

# make_venv_with DIRECTORY "VERSION PATH" CONSTRAINTS ARGS: creates an environment with the packages that ARGS name.
# An environment that was made from the same inputs is reused.
make_venv_with() {
    local directory=$1 version=${2%% *} python=${2#* } constraints=$3 stamp
    stamp=$(cat "${root:?}/pyproject.toml" "$constraints" - <<<"$directory $2 ${*:4}" | sha256sum)
    if [[ -x $directory/bin/python && -f $directory/stamp && $(<"$directory/stamp") == "$stamp" ]]; then
        return
    fi
    heading "Python $version in ${directory#"$root"/}"
    rm -rf "$directory"
    local pip=("$directory/bin/python" -m pip -qq --disable-pip-version-check install --constraint "$constraints")
    "$python" -m venv "$directory" &&
        "${pip[@]}" pip && # the pip that comes with Python 3.11 knows no groups
        (cd "$root" && "${pip[@]}" --build-constraint "$constraints" "${@:4}") &&
        echo "$stamp" >"$directory/stamp"
}

# free_port PYTHON FIRST [WANTED]: prints the port that is wanted, or the first free one of a hundred.
free_port() {
    "$1" - "$2" "${3:-}" <<'PYTHON'
import socket, sys

first, wanted = int(sys.argv[1]), sys.argv[2]
for port in [int(wanted)] if wanted else range(first, first + 100):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        print(listener.getsockname()[1])
        break
else:
    sys.exit(f"Port {wanted or f'{first} to {first + 99}'} of 127.0.0.1 is not free.")
PYTHON
}

# Also searches where Debian installs server programs.
has() {
    PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "$1" >/dev/null
}

has_postgres() {
    has postgres || compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null
}

# unpack_newest DIRECTORY STAMP PACKAGE…: unpacks the newest of these packages of Debian into a directory, with all that
# they need, and installs none. STAMP is a file that says what is there already. It fails where there are none.
unpack_newest() {
    local directory=$1 stamp=$2 apt=$1.apt keyring=/usr/share/keyrings/debian-archive-keyring.gpg package
    shift 2
    if [[ -f $stamp && $(<"$stamp") == "$*" ]]; then
        return
    fi
    if ! command -v apt-get >/dev/null || [[ ! -f $keyring ]]; then
        return 1
    fi
    rm -rf "$apt" "$directory"
    mkdir -p "$apt"/{lists,archives}/partial "$directory"
    : >"$apt/status" # as if nothing were installed, so that the C library comes with the programs
    echo "deb [signed-by=$keyring] http://deb.debian.org/debian sid main" >"$apt/sources.list"
    local apt_get=(
        apt-get -qq
        -o "Dir::State=$apt"
        -o "Dir::State::status=$apt/status"
        -o "Dir::Cache=$apt"
        -o "Dir::Etc::sourcelist=$apt/sources.list"
        -o Dir::Etc::sourceparts=-
        -o APT::Sandbox::User=
        -o Debug::NoLocking=1
    )
    "${apt_get[@]}" update &&
        "${apt_get[@]}" --download-only --yes --no-install-recommends install "$@" >&2 || return 1
    for package in "$apt"/archives/*.deb; do
        dpkg -x "$package" "$directory" || return 1
    done
    rm -rf "$apt"
    echo "$*" >"$stamp"
}

# need_servers PACKAGE…: installs those that are missing.
need_servers() {
    (($#)) || return 0
    heading "Servers: $*"
    apt_install_without_starting "$@" || echo "They could not be installed. Checks that need them are skipped."
}
