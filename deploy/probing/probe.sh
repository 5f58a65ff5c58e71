#!/bin/sh
# shellcheck disable=SC2317
# What is on this host: read-only, POSIX sh, one run, one framed answer on standard output.
#
# Sent by deploy/probing/probe.py to `sh -s` after assignments of NONCE, PREFIX, STATE, EXPECTED, INTEREST,
# POLICY, RPM_POLICY, SERVICES, MANIFEST,
# GPU_FIELDS and SYMBOL. Needs no Python and no root; what only root sees is said to be missing.
#
# Every part runs in the background with a time limit of its own and writes into a private
# directory; a part that cannot be killed (a process in uninterruptible sleep) is left behind.
# Only at the end is anything printed, so nothing can interleave:
#   NONCE begin VERSION UID USER          then for each part
#   NONCE part NAME STATUS                STATUS: exit code, late (time limit), huge or died
#   |payload                              so that no payload line can look like a frame
#   (!)error                              first lines of its stderr, without the brackets
#   NONCE done NAME PAYLOAD-LINES         and last
#   NONCE end PARTS

set -u
umask 077
LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH INTEREST
unset APT_CONFIG POSIXLY_CORRECT SYSTEMD_COLORS
cap=200000
tab=$(printf '\t')
newline='
'
me=$(id -u)

# Which package system keeps this host. Tools do not tell: rpm can be installed on Debian, and dpkg
# on others; what the distribution calls itself, and what it calls itself alike, does.
family=
for word in $(sed -n "s/^ID=//p; s/^ID_LIKE=//p" /etc/os-release 2>/dev/null | tr -d "\"'"); do
    case $word in
        debian | ubuntu) family=apt ;;
        rhel | fedora | centos | rocky | almalinux | ol | amzn) family=dnf ;;
        suse | sles | opensuse) family=zypper ;;
        *) continue ;;
    esac
    break
done
if [ -z "$family" ] && command -v dpkg-query >/dev/null; then family=apt; fi

tagged() { # TAG FILE: every line of a readable file behind a tag
    [ -r "$2" ] || return 0
    head -c 65536 "$2" | sed "s|^|$1 |"
    echo # ends a line that has no end
}

# --- parts: each prints lines that begin with a tag word --------------------------------------

part_system() {
    if [ -r /etc/os-release ]; then tagged os /etc/os-release; else tagged os /usr/lib/os-release; fi
    printf 'arch %s\nrunning %s\n' "$(uname -m)" "$(uname -r)"
    for directory in /lib/modules/*/; do
        [ -d "$directory" ] || continue
        release=${directory%/}
        release=${release##*/}
        printf 'modules %s\n' "$release"
        [ -e "$directory/build" ] && printf 'headers %s\n' "$release"
        [ -e "$directory/vmlinuz" ] && printf 'image %s\n' "$release"
    done
    for image in /boot/vmlinuz-*; do
        [ -e "$image" ] && printf 'image %s\n' "${image#/boot/vmlinuz-}"
    done
    if [ -r /etc/default/grub ]; then
        sed -n 's/^GRUB_DEFAULT=/grub-default /p' /etc/default/grub
    fi
    for grub in /boot/grub /boot/grub2; do
        [ -r "$grub/grubenv" ] && sed -n 's/^\(saved_entry\|next_entry\)=/grub-\1 /p' "$grub/grubenv"
        [ -r "$grub/grub.cfg" ] || continue
        sed -n 's|^[[:space:]]*linux[[:space:]]\{1,\}[^[:space:]]*/vmlinuz-\([^[:space:]]*\).*|grub-linux \1|p' \
            "$grub/grub.cfg"
    done
    for entry in /boot/loader/entries/*.conf; do
        [ -r "$entry" ] && sed -n 's|^linux[[:space:]][^[:space:]]*/vmlinuz-\([^[:space:]]*\).*|bls \1|p' "$entry"
    done
    tagged boot /proc/sys/kernel/random/boot_id
    tagged uptime /proc/uptime
    if command -v systemd-detect-virt >/dev/null; then
        printf 'container %s\n' "$(systemd-detect-virt -c)"
    elif [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
        printf 'container docker\n'
    else
        printf 'container none\n'
    fi
    variable=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
    if [ ! -d /sys/firmware/efi ]; then
        printf 'secure no-efi\n'
    elif [ -r "$variable" ]; then
        printf 'secure %s\n' "$(od -An -t u1 -j 4 -N 1 "$variable" | tr -d ' ')"
    elif command -v mokutil >/dev/null; then
        printf 'secure %s\n' "$(mokutil --sb-state 2>&1 | head -n 1)"
    fi
    return 0
}

part_pci() {
    for device in /sys/bus/pci/devices/*; do
        [ -r "$device/vendor" ] || continue
        read -r vendor <"$device/vendor"
        [ "$vendor" = 0x10de ] || continue
        read -r class <"$device/class"
        case $class in 0x03* | 0x0680*) ;; *) continue ;; esac
        read -r id <"$device/device"
        read -r subvendor <"$device/subsystem_vendor"
        read -r subdevice <"$device/subsystem_device"
        revision=
        [ -r "$device/revision" ] && read -r revision <"$device/revision"
        driver=
        if [ -e "$device/driver" ] || [ -L "$device/driver" ]; then
            driver=$(readlink "$device/driver")
            driver=${driver##*/}
        fi
        printf 'pci %s %s %s %s:%s %s %s\n' "${device##*/}" "$id" "$class" \
            "$subvendor" "$subdevice" "${revision:--}" "${driver:--}"
    done
    [ -d /sys/bus/pci/devices ] || return 1
}

part_modules() {
    if [ -e /sys/module/nvidia ]; then
        version=unnamed
        [ -r /sys/module/nvidia/version ] && read -r version <"/sys/module/nvidia/version"
        printf 'loaded %s\n' "$version"
        count=-
        [ -r /sys/module/nvidia/refcnt ] && read -r count <"/sys/module/nvidia/refcnt"
        printf 'refcount %s\n' "$count"
    fi
    tagged nvrm /proc/driver/nvidia/version
    tr ' ' '\n' </proc/cmdline | sed -n '/blacklist=\|nouveau/s/^/cmdline /p'
    [ -e /sys/module/nouveau ] && printf 'nouveau loaded\n'
    for directory in /lib/modules/*/; do
        release=${directory%/}
        release=${release##*/}
        # modules.dep is what modprobe goes by; Debian names its own module nvidia-current.
        file=$(sed -n 's|^\([^:]*/nvidia\(-current[a-z-]*\|-tesla[a-z0-9-]*\)\{0,1\}\.ko[.a-z0-9]*\):.*|\1|p' \
            "$directory/modules.dep" 2>/dev/null | head -n 1)
        [ -n "$file" ] || continue
        case $file in /*) ;; *) file=$directory$file ;; esac
        modinfo "$file" 2>/dev/null | sed -n "
            s|^version:[[:space:]]*|installed $release version |p
            s|^license:[[:space:]]*|installed $release license |p"
        [ -e "$file" ] && printf 'installed %s file %s\n' "$release" "$file"
    done
    for file in /etc/modprobe.d/*.conf /run/modprobe.d/*.conf /usr/local/lib/modprobe.d/*.conf \
        /usr/lib/modprobe.d/*.conf /lib/modprobe.d/*.conf; do
        [ -e "$file" ] || continue
        printf 'config %s\n' "$file"
        [ -r "$file" ] || continue
        sed -n 's/^[[:space:]]*\(\(blacklist\|install\|alias\)[[:space:]]\{1,\}nouveau\([[:space:]].*\)\{0,1\}\)$/rule \1/p' "$file"
    done
    for entry in /proc/driver/nvidia/gpus/*/information; do
        [ -r "$entry" ] || continue
        slot=${entry%/information}
        sed -n "s|^Device Minor:[[:space:]]*|minor ${slot##*/} |p" "$entry"
    done
    for instance in /proc/driver/nvidia/capabilities/gpu*/mig/gi*; do
        [ -e "$instance" ] || continue
        minor=${instance#/proc/driver/nvidia/capabilities/gpu}
        printf 'mig %s\n' "${minor%%/*}"
    done
    return 0
}

part_packages() {
    [ "$family" = apt ] || { rpm_packages; return; }
    command -v dpkg-query >/dev/null || return 3
    {
        dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Architecture}\t${Version}\n' ||
            echo failed
    } | awk -F '\t' '
        $0 == "failed" { bad = 1 }
        { wanted = substr($1, 1, 1); actual = substr($1, 2, 1) }
        actual ~ /[HUFWt]/ || $1 ~ /R/ { print "broken\t" $2 }
        actual !~ /[nc]/ && $2 ~ ENVIRON["INTEREST"] { print "package\t" $0 }
        END { exit bad }' || return 1
    for entry in /var/lib/dpkg/updates/*; do
        [ -e "$entry" ] && printf 'journal\t%s\n' "${entry##*/}"
    done
    return 0
}

rpm_packages() {
    command -v rpm >/dev/null || return 3
    {
        rpm -qa --qf '%{NAME}\t%{ARCH}\t%{EVR}\n' || echo failed
    } | awk -F '\t' '
        $0 == "failed" { bad = 1 }
        $1 ~ ENVIRON["INTEREST"] { print "rpm\t" $0 }
        END { exit bad }'
}

part_candidates() {
    [ "$family" = apt ] || { dnf_candidates; return; }
    command -v apt-cache >/dev/null || return 3
    # shellcheck disable=SC2046,SC2086 # lists of package names
    set -- $POLICY $(
        for directory in /lib/modules/*/; do
            [ -d "$directory" ] || continue
            directory=${directory%/}
            printf 'linux-headers-%s\n' "${directory##*/}" | tr A-Z_ a-z-
        done
    ) $(dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\n' | awk -F '\t' '
        substr($1, 2, 1) !~ /[nc]/ && $2 ~ /nvidia|cuda|cudnn|nccl|datacenter-gpu/ { print $2 }')
    # apt would write its caches when they are out of date. Without the package cache it writes
    # nothing and still reads the (large) source cache, as long as that one is newer than its input.
    sources=/var/cache/apt/srcpkgcache.bin
    if [ ! -f "$sources" ] || [ -n "$(find /var/lib/apt/lists /etc/apt/sources.list* -newer \
        "$sources" ! -name lock ! -name partial -print 2>/dev/null | head -n 1)" ]; then
        sources=
    fi
    apt-cache -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="$sources" policy -- "$@" |
        sed 's/^/policy /'
}

dnf_candidates() {
    command -v dnf >/dev/null || return 3
    # dnf writes beside what it reads, so it gets a folder of links and reads that, without network.
    [ -r /var/cache/dnf ] || { echo "dnf has fetched nothing yet" >&2; return 1; }
    mkdir "$work/dnf" "$work/dnf/persist" "$work/dnf/log" &&
        cp -rs /var/cache/dnf "$work/dnf/cache" 2>/dev/null || return 1
    rm -f "$work"/dnf/cache/*.pid # another dnf's locks are of no concern to a copy
    # shellcheck disable=SC2046,SC2086 # lists of package names
    set -- $RPM_POLICY $(
        for directory in /lib/modules/*/; do
            [ -d "$directory" ] || continue
            directory=${directory%/}
            release=${directory##*/}
            printf 'kernel-devel-%s kernel-uek-devel-%s\n' "$release" "$release"
        done
    )
    dnf -q -C --setopt=cachedir="$work/dnf/cache" --setopt=persistdir="$work/dnf/persist" \
        --setopt=logdir="$work/dnf/log" --setopt=skip_if_unavailable=1 repoquery \
        --qf "dnf$tab%{name}$tab%{arch}$tab%{evr}$tab%{reponame}" -- "$@" </dev/null
}

part_manager() {
    printf 'family %s\n' "$family"
    case $family in
        apt) apt_configuration ;;
        dnf | zypper) dnf_configuration ;;
    esac
}

apt_configuration() {
    for file in /etc/apt/preferences /etc/apt/preferences.d/*; do
        [ -f "$file" ] || continue
        if [ ! -r "$file" ]; then printf 'unreadable %s\n' "$file"; continue; fi
        printf 'preferences %s\n' "$file"
        tagged p "$file"
    done
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        if [ ! -r "$file" ]; then printf 'unreadable %s\n' "$file"; continue; fi
        printf 'sources %s\n' "$file"
        sed -n '/^[[:space:]]*#/d; s/^/s /p' "$file"
    done
    if command -v apt-config >/dev/null; then
        apt-config dump | sed -n '/^APT::Periodic::\|^Unattended-Upgrade::Package-Blacklist/s/^/config /p'
    fi
}

dnf_configuration() {
    for file in /etc/dnf/dnf.conf /etc/yum.repos.d/*.repo /etc/zypp/repos.d/*.repo \
        /etc/dnf/modules.d/*.module /etc/dnf/plugins/versionlock.list /etc/dnf/versionlock.toml \
        /etc/dnf/automatic.conf; do
        [ -f "$file" ] || continue
        if [ ! -r "$file" ]; then printf 'unreadable %s\n' "$file"; continue; fi
        printf 'file %s\n' "$file"
        # Comments say nothing, except those that frame our own locks; passwords stay here.
        sed -n '/^# gpufleet /{ s/^/c /p; d; }
            /^[[:space:]]*\(#\|$\|\(proxy_\)\{0,1\}\(username\|password\)[[:space:]]*=\)/d
            s/^/c /p' "$file" | head -c 65536
        echo
    done
    sed -n 's/^[[:space:]]*locklist[[:space:]]*=[[:space:]]*/locklist /p
        s/^[[:space:]]*enabled[[:space:]]*=[[:space:]]*/locking /p' \
        /etc/dnf/plugins/versionlock.conf 2>/dev/null
    for lock in /var/lib/dnf/rpmdb_lock.pid /var/cache/dnf/metadata_lock.pid; do
        [ -r "$lock" ] || continue
        read -r pid <"$lock"
        case $pid in '' | *[!0-9]*) continue ;; esac
        [ -r "/proc/$pid/comm" ] || continue
        read -r name <"/proc/$pid/comm"
        printf 'holder %s %s\n' "$pid" "$name"
    done
    return 0
}

part_services() {
    [ -d /run/systemd/system ] || return 3
    # shellcheck disable=SC2086 # a list of unit names
    systemctl show --no-pager --property=Id,LoadState,ActiveState,UnitFileState $SERVICES
}

part_environments() {
    [ -d "$PREFIX/envs" ] || [ -d "$PREFIX/python" ] || return 0
    [ ! -d "$PREFIX/envs" ] || [ -r "$PREFIX/envs" ] || return 4
    [ -L "$PREFIX/env" ] && printf 'current %s\n' "$(readlink "$PREFIX/env")"
    pythons=$(find /proc/[0-9]*/exe -maxdepth 0 -lname '*/python*' 2>/dev/null)
    for directory in "$PREFIX"/envs/*/; do
        [ -d "$directory" ] || continue
        id=${directory%/}
        printf 'env %s\n' "${id##*/}"
        tagged manifest "$directory/.gpufleet-manifest"
        printf 'found %s\n' "$(cd "$directory" && eval "$MANIFEST")"
        case "$(readlink "$directory/bin/python")" in
            "$PREFIX/python/"*)
                build=$(readlink "$directory/bin/python")
                build=${build#"$PREFIX/python/"}
                printf 'python %s\n' "${build%%/*}"
                ;;
        esac
        for record in "$directory"/lib/python*/site-packages/*.dist-info; do
            [ -e "$record" ] || continue
            record=${record%.dist-info}
            printf 'dist %s\n' "${record##*/}"
        done
        for python in $pythons; do
            if grep -qsF "envs/${id##*/}/" "${python%/exe}/maps"; then printf 'in-use\n'; break; fi
        done
    done
    for directory in "$PREFIX"/python/*/; do
        [ -d "$directory" ] || continue
        build=${directory%/}
        printf 'build %s\n' "${build##*/}"
        tagged manifest "$directory/.gpufleet-manifest"
        printf 'found %s\n' "$(cd "$directory" && eval "$MANIFEST")"
        for python in $pythons; do
            if grep -qsF "python/${build##*/}/" "${python%/exe}/maps"; then
                printf 'in-use\n'
                break
            fi
        done
    done
    [ "$me" = 0 ] || printf 'blind\n'
    return 0
}

part_software() {
    [ -e /usr/local/cuda ] && printf 'cuda-link %s\n' "$(readlink -f /usr/local/cuda)"
    for directory in /usr/local/cuda-[0-9]*; do
        # cuda-13 is a link to the newest 13.x
        [ -d "$directory" ] && [ ! -L "$directory" ] &&
            printf 'toolkit %s\n' "${directory#/usr/local/cuda-}"
    done
    if [ -x /usr/bin/python3 ]; then
        version=$(/usr/bin/python3 -V 2>&1)
        version=${version#Python }
        printf 'python %s\n' "$version"
        minor=${version%.*}
        [ -e "/usr/include/python$minor/Python.h" ] && printf 'python-headers\n'
        for library in /usr/lib /usr/lib64; do
            [ -e "$library/python$minor/ensurepip/__init__.py" ] && printf 'python-venv\n'
        done
    fi
    if command -v c++ >/dev/null; then printf 'compiler %s\n' "$(c++ -dumpfullversion -dumpversion)"; fi
    for tool in curl wget gpgv gpg dkms mokutil flock setsid timeout dracut; do
        command -v "$tool" >/dev/null && printf 'tool %s\n' "$tool"
    done
    for plugin in /usr/lib/python3*/site-packages /usr/lib/python3*/dist-packages; do
        [ -e "$plugin/dnf-plugins/versionlock.py" ] && printf 'tool versionlock\n'
    done
    return 0
}

part_disks() {
    for path in / /boot /usr /var/lib "${PREFIX%/*}" /tmp; do
        there=$path
        while [ ! -d "$there" ]; do there=${there%/*}; there=${there:-/}; done
        printf 'disk %s %s\n' "$path" "$(stat -f -c '%S %b %f' "$there")"
        awk -v path="$there" '
            {
                point = $2
                gsub(/\\040/, " ", point)
                inside = point == "/" || path == point || index(path, point "/") == 1
                if (inside && length(point) >= best) { best = length(point); flags = $4 }
            }
            END { print "mount " (("," flags ",") ~ /,ro,/ ? "ro" : "rw") }' /proc/self/mounts
    done
}

part_users() {
    # The scan must find our own open pipe, else it proves nothing.
    exec 4<"$work/os.self"
    set -- /proc/[0-9]*/fd
    open=$(find "$@" -maxdepth 1 \( -lname '/dev/nvidia*' -o -lname '/var/lib/dpkg/lock*' \
        -o -lname "$work/os.self" \) -printf '%h %l\n' 2>"$work/users.said" | sort -u)
    [ -n "$open" ] || return 1
    grep -q 'Permission denied' "$work/users.said" && printf 'blind\n'
    for device in /dev/nvidia*; do
        [ -e "$device" ] && printf 'devices\n' && break
    done
    last=
    printf '%s\n' "$open" | while read -r directory target; do
        pid=${directory#/proc/}
        pid=${pid%/fd}
        case $target in
            */os.self) printf 'self\n'; continue ;;
            /var/lib/dpkg/*) what=dpkg ;;
            *) what=gpu ;;
        esac
        [ "$last" = "$pid $what" ] && continue
        last="$pid $what"
        of_this_probe "$pid" && continue
        exe=$(readlink "/proc/$pid/exe")
        case $exe in *"$newline"* | *"$tab"*) exe=odd ;; esac
        uid=$(sed -n 's/^Uid:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$pid/status" 2>/dev/null)
        [ -n "$uid" ] || continue
        name=$(sed -n 's/^Name:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
        unit=$(sed -n 's/^\(0:\|[0-9]*:name=systemd\):.*\/\([^/]*\.service\)$/\2/p' \
            "/proc/$pid/cgroup" 2>/dev/null | head -n 1)
        printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$what" "$pid" "$uid" "$(user_name "$uid")" \
            "$name" "$exe" "$unit"
    done
}

of_this_probe() { # PID: a tool that another part of this very probe has started
    kin=$1
    while [ "${kin:-0}" -gt 1 ]; do
        [ "$kin" = $$ ] && return 0
        kin=$(sed -n 's/^PPid:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$kin/status" 2>/dev/null)
    done
    return 1
}

user_name() { # UID: directory services may hang, so not for long
    if command -v timeout >/dev/null; then
        entry=$(timeout 3 getent passwd "$1")
    else
        entry=$(sed -n "/^[^:]*:[^:]*:$1:/p" /etc/passwd | head -n 1)
    fi
    printf '%s' "${entry%%:*}"
}

part_slurm() {
    daemon=
    for name in /proc/[0-9]*/comm; do
        read -r comm <"$name" || continue
        [ "$comm" = slurmd ] && daemon=${name%/comm} && break
    done 2>/dev/null
    queue=$(command -v squeue)
    if [ -z "$queue" ] && [ -n "$daemon" ]; then
        program=$(tr '\000' '\n' <"$daemon/cmdline" | head -n 1)
        queue=${program%/sbin/slurmd}/bin/squeue
        [ -x "$queue" ] || return 5
    fi
    [ -n "$queue" ] || return 0
    node=$(uname -n)
    node=${node%%.*}
    if jobs=$("$queue" -h -w "$node" -o "%i$tab%u$tab%T" 2>"$work/slurm.said"); then
        [ -z "$jobs" ] || printf '%s\n' "$jobs" | sed "s/^/job$tab/"
        return 0
    fi
    cat "$work/slurm.said" >&2
    # A machine with Slurm's tools that is no node of the cluster has no jobs.
    grep -qi 'invalid node name' "$work/slurm.said" && [ -z "$daemon" ]
}

part_foreign() {
    for path in /usr/bin/nvidia-uninstall /usr/bin/nvidia-installer /var/log/nvidia-installer.log \
        /etc/nvidia/gridd.conf /usr/bin/nvidia-gridd \
        /usr/bin/nvidia-vgpud /usr/bin/nvidia-vgpu-mgr; do
        [ -e "$path" ] && printf 'path %s\n' "$path"
    done
    for path in /run/nvidia/driver/* /run/nvidia/validations/.*ready /run/nvidia/validations/*; do
        [ -e "$path" ] && printf 'path %s\n' "$path"
    done
    [ -e /etc/dgx-release ] && { tagged dgx /etc/dgx-release; printf 'path /etc/dgx-release\n'; }
    return 0
}

part_files() {
    set -- /etc /usr/share/keyrings
    [ ! -e "$EXPECTED" ] || set -- "$@" "$EXPECTED"
    find "$@" \( -path '*gpufleet*' -o -path "$EXPECTED" \) \( -type f -o -type l \) -print 2>/dev/null | while IFS= read -r file; do
        [ -f "$file" ] || continue
        case $file in *"$tab"*) continue ;; esac
        sum=$(sha256sum <"$file" 2>/dev/null)
        printf 'file\t%s\t%s\t%s\n' "${sum%% *}" "$(stat -L -c %a "$file")" "$file"
    done
}

part_state() {
    [ -e "$STATE" ] || return 0
    [ -r "$STATE" ] || return 4
    tagged state "$STATE"
}

# Settings of the GPUs, as the driver's own tool tells them; nothing is asked without a driver, for
# nvidia-smi would load it.
part_settings() {
    [ -e /sys/module/nvidia ] || return 0
    command -v nvidia-smi >/dev/null || return 3
    nvidia-smi --query-gpu="$GPU_FIELDS" --format=csv,noheader,nounits >"$work/settings.gpus"
    code=$?
    if [ "$code" -eq 6 ]; then return 0; fi # it finds no GPU
    if [ "$code" -ne 0 ]; then head -c 1000 "$work/settings.gpus" >&2; return "$code"; fi
    sed 's/^/gpu /' "$work/settings.gpus"
    grep -q ', Enabled, [A-Za-z]*, [^,]*, [^,]*, [^,]*, [^,]*, [^,]*$' "$work/settings.gpus" || return 0
    for list in gi gip; do
        nvidia-smi mig "-l$list" >"$work/settings.mig"
        case $? in
            0) sed "s/^/$list /" "$work/settings.mig" ;;
            6) ;; # there is none
            *) printf 'mig-blind\n' ;;
        esac
    done
    nvidia-smi -L | sed 's/^/list /'
}

part_params() {
    [ ! -e /proc/driver/nvidia/params ] || tagged param /proc/driver/nvidia/params
}

# The checksum of one symbol of OFED's ib_core: that which nvidia-peermem on disk was built with, and
# that which the installed OFED has.
part_rdma() {
    for module in ib_core ib_uverbs ib_umad mlx5_core mlx5_ib efa nvidia_peermem nv_peer_mem; do
        [ -e "/sys/module/$module" ] && printf 'loaded %s\n' "$module"
    done
    for device in /sys/class/infiniband/*; do
        [ -e "$device" ] && printf 'device %s\n' "${device##*/}"
    done
    command -v ofed_info >/dev/null && printf 'ofed %s\n' "$(ofed_info -s 2>/dev/null | head -n 1)"
    tagged efa /opt/amazon/efa_installed_packages | head -n 20
    for file in /etc/modules /etc/modules-load.d/*.conf /run/modules-load.d/*.conf \
        /usr/local/lib/modules-load.d/*.conf /usr/lib/modules-load.d/*.conf /lib/modules-load.d/*.conf; do
        case $file in *gpufleet*) continue ;; esac
        [ -r "$file" ] && sed -n 's/^[[:space:]]*\(nvidia[-_]peermem\|ib[-_]umad\)[[:space:]]*$/autoload \1/p' "$file"
    done
    if [ -r /sys/module/ib_core/srcversion ]; then
        read -r source </sys/module/ib_core/srcversion
        [ "$source" = "$(modinfo -F srcversion ib_core 2>/dev/null)" ] || printf 'restart\n'
    fi
    running=$(uname -r)
    for directory in /lib/modules/*/; do
        release=${directory%/}
        release=${release##*/}
        file=$(sed -n 's|^\([^:]*/nvidia-peermem\.ko[.a-z0-9]*\):.*|\1|p' "$directory/modules.dep" 2>/dev/null | head -n 1)
        [ -n "$file" ] || continue
        case $file in /*) ;; *) file=$directory$file ;; esac
        sums=$(modprobe --dump-modversions "$file" 2>/dev/null)
        printf 'peermem %s %s\n' "$release" "$(printf '%s\n' "$sums" | awk -v symbol="$SYMBOL" '
            { any = any || NF == 2 } $2 == symbol { found = $1 }
            END { print (found != "" ? found : any ? "none" : "unreadable") }')"
        here=
        [ "$release" = "$running" ] && here=/usr/src/ofa_kernel/default/Module.symvers
        for file in "/usr/src/ofa_kernel/$(uname -m)/$release/Module.symvers" $here; do
            [ -r "$file" ] || continue
            awk -v release="$release" -v symbol="$SYMBOL" \
                '$2 == symbol { print "offers " release " " $1; exit }' "$file"
            break
        done
    done
    nodes=/etc/nvidia-imex/nodes_config.cfg
    [ -r "$nodes" ] && printf 'imex %s\n' "$(grep -c '^[[:space:]]*[0-9A-Za-z]' "$nodes")"
    return 0
}

part_cdi() {
    for file in /etc/cdi/*.yaml /etc/cdi/*.json /run/cdi/*.yaml /run/cdi/*.json; do
        grep -qs 'nvidia\.com/gpu' "$file" || continue
        printf 'cdi %s %s\n' "$file" \
            "$(sed -n 's/.*libcuda\.so\.\([0-9][0-9]*\.[0-9.]*[0-9]\).*/\1/p' "$file" | head -n 1)"
    done
    return 0
}

# --- running them ------------------------------------------------------------------------------

work=
for place in /dev/shm /run /tmp /var/tmp; do
    work=$(mktemp -d "$place/gpufleet-probe.XXXXXXXXXX" 2>/dev/null) && break
done
printf '\n%s begin 2 %s %s\n' "$NONCE" "$me" "$(id -un)"
if [ -z "$work" ] || ! mkfifo "$work/ended"; then
    printf '%s nowhere-to-write\n' "$NONCE"
    exit 0
fi
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM PIPE
: >"$work/os.self"
exec 3<>"$work/ended"

names=
running=
left=0
launch() { # NAME SECONDS
    (
        { "part_$1"; echo $? >"$work/$1.rc"; } 2>"$work/$1.err" | head -c "$cap" >"$work/$1.out"
        : >"$work/$1.end"
        echo "$1" >&3
    ) >/dev/null 2>&1 </dev/null &
    running="$running $1:$!:$2"
    names="$names $1"
    left=$((left + 1))
}

kill_tree() { # PID: what does not die is left behind
    kids=
    [ -r "/proc/$1/task/$1/children" ] && read -r kids <"/proc/$1/task/$1/children"
    for kid in $kids; do echo "$kid"; done >>"$work/kill"
    kill -9 "$1" 2>/dev/null
}

end_late() {
    for entry in $running; do
        name=${entry%%:*}
        limit=${entry##*:}
        if [ "$seconds" -lt "$limit" ] || [ -e "$work/$name.end" ] || [ -e "$work/$name.late" ]; then
            continue
        fi
        : >"$work/$name.late"
        left=$((left - 1))
        pid=${entry#*:}
        : >"$work/kill"
        kill_tree "${pid%:*}"
        while [ -s "$work/kill" ]; do
            kin=$(cat "$work/kill")
            : >"$work/kill"
            for pid in $kin; do kill_tree "$pid"; done
        done
    done
}

launch candidates 15
launch settings 15
launch packages 10
launch environments 15
launch users 10
launch slurm 8
launch services 5
launch disks 5
launch system 5
launch pci 5
launch modules 8
launch manager 5
launch software 5
launch foreign 5
launch files 5
launch state 5
launch params 5
launch rdma 8
launch cdi 5

(while sleep 1; do echo tick >&3; done) >/dev/null 2>&1 </dev/null &
ticker=$!
seconds=0
while [ "$left" -gt 0 ] && read -r word <&3; do
    if [ "$word" = tick ]; then
        seconds=$((seconds + 1))
        end_late
    elif [ ! -e "$work/$word.late" ]; then
        left=$((left - 1))
    fi
done
kill "$ticker" 2>/dev/null

for name in $names; do
    status=died
    [ -s "$work/$name.rc" ] && read -r status <"$work/$name.rc"
    [ -e "$work/$name.late" ] && status=late
    printf '%s %s\n' "$name" "$status"
done | awk -v nonce="$NONCE" -v place="$work" -v cap="$cap" '
    {
        file = place "/" $1 ".out"; count = 0; size = 0
        while ((getline line < file) > 0) { text[count++] = line; size += length(line) + 1 }
        close(file)
        print nonce, "part", $1, (size >= cap ? "huge" : $2)
        for (i = 0; i < count; i++) print "|" text[i]
        file = place "/" $1 ".err"; said = 0
        while (said < 3 && (getline line < file) > 0) { print "!" substr(line, 1, 200); said++ }
        close(file)
        print nonce, "done", $1, count
    }
    END { print nonce, "end", NR }'
exit 0
