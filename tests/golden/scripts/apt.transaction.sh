simulate() {
    apt -s "$@" >"$work/plan" 2>&1
}
if ! simulate "$@"; then
    echo "reading the package lists afresh"
    refresh
    if ! simulate "$@"; then
        cat "$work/plan" >&2
        echo "apt cannot do this with the package sources of this host; if a version is gone" \
            "from the repository, gpufleet lock picks one that is there" >&2
        exit 1
    fi
fi
judge() {
    WANTED=" $wanted " ALSO=" $also " ALSO_LIKE="$also_like" MAY_GO=" $may_go " \
        MAY_BE="$may_be" GPU="$gpu" THEIRS="$theirs" awk '
        function known(list, word) { return index(ENVIRON[list], " " word " ") > 0 }
        $1 == "Remv" || $1 == "Purg" {
            name = $2; sub(/:.*/, "", name)
            if (!known("MAY_GO", name)) { print "it would remove " name; bad = 1 }
        }
        $1 == "Inst" {
            name = $2; sub(/:.*/, "", name)
            field = substr($3, 1, 1) == "[" ? $4 : $3
            version = substr(field, 2); upstream = version
            sub(/^[0-9]+:/, "", upstream); sub(/-[^-]*$/, "", upstream)
            if (known("WANTED", name "=" version) || known("ALSO", name)) next
            if (ENVIRON["ALSO_LIKE"] != "" && name ~ ENVIRON["ALSO_LIKE"]) next
            if (known("MAY_GO", name) && upstream == ENVIRON["MAY_BE"]) next
            if (substr($3, 1, 1) == "[" && name ~ ENVIRON["THEIRS"]) {
                print "it would change " name ", which belongs to the RDMA stack"; bad = 1
            }
            if (index(ENVIRON["WANTED"], " " name "=") || name ~ ENVIRON["GPU"]) {
                print "it would put " name " at " version ", which is not in the lock"; bad = 1
            }
        }
        END { exit bad }
    ' "$work/plan" >&2
}
refuse() {
    echo "nothing was changed: apt would do more than the plan says; see" \
        "gpufleet lock for versions that agree" >&2
    exit 1
}
judge || refuse
if ! patiently apt --download-only "$@"; then
    echo "reading the package lists afresh"
    refresh
    simulate "$@" && judge || refuse
    patiently apt --download-only "$@"
fi
# A package that dpkg was killed in may be noted at its new version and still need unpacking. apt
# does not do that before it configures what depends on it, and --reinstall for all ends in an
# internal error at packages that are merely unpacked (both seen with apt 2.6).
for torn in $(dpkg-query -W -f '${db:Status-Abbrev} ${Package}=${Version}\n' |
    awk '$1 ~ /R$/ { print $2 }'); do
    case " $wanted " in *" $torn "*) ;; *) continue ;; esac
    mkdir "$work/torn"
    (cd "$work/torn" && apt download "$torn")
    patiently dpkg --unpack --force-depends --force-breaks "$work/torn"/*.deb
    rm -r "$work/torn"
done
