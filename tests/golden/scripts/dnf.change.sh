# A transaction that was cut off leaves a package installed in two versions. dnf has no word for
# one of them, rpm has. What stays is installed once more, since its scripts may not have run.
again=
for entry in $WANTED; do
    name=${entry%%=*}
    version=${entry#*=}
    count=$(rpm -q --qf '%{ARCH}\n' "$name" 2>/dev/null | sort | uniq -d | wc -l)
    [ "$count" -gt 0 ] || continue
    keep=
    for one in $(rpm -q --qf '%{EVR}=%{ARCH}\n' "$name"); do
        [ "${one%%=*}" != "$version" ] || keep=$version
    done
    [ -n "$keep" ] || keep=$(rpm -q --qf '%{INSTALLTIME} %{EVR}\n' "$name" | sort -n |
        sed -n '$s/.* //p')
    for one in $(rpm -q --qf '%{EVR}=%{ARCH}\n' "$name"); do
        [ "${one%%=*}" != "$keep" ] || continue
        echo "$name ${one%%=*} was left behind by a transaction that was cut off"
        rpm -e --nodeps "$name-${one%%=*}.${one#*=}" ||
            rpm -e --nodeps --noscripts "$name-${one%%=*}.${one#*=}"
    done
    [ "$keep" != "$version" ] || again="$again $name-$version"
done
if ! patiently dnf4 -C "$@"; then
    refuse
    exit 1
fi
[ -z "$again" ] || patiently dnf4 reinstall $again
for entry in $EXACTLY; do
    found=$(rpm -q --qf '%{EVR} ' "${entry%%=*}" 2>/dev/null) || found=
    case " $found" in *" ${entry#*=} "* | *" 0:${entry#*=} "*) continue ;; esac
    echo "${entry%%=*} is ${found:-not there} although dnf found nothing wrong, wanted" \
        "${entry#*=}" >&2
    exit 1
done
ldconfig
