mkdir "$work/plugins"
cat >"$work/plugins/gpufleet.py"
interpreter=$(sed -n '1s/^#! *//p' "$(command -v dnf)")
plugins="--setopt=pluginpath=$work/plugins,$($interpreter -c '
import dnf.const
print(dnf.const.PLUGINPATH)')"
REFUSED=$work/refused
export LEAVE WANTED MAY_GO MAY_BE ALSO GPU THEIRS REFUSED
refuse() {
    [ -s "$REFUSED" ] || return 0
    cat "$REFUSED" >&2
    echo "nothing was changed: dnf would do more than the plan says; see" \
        "gpufleet lock for versions that agree" >&2
    exit 1
}
if ! patiently dnf4 --downloadonly "$@"; then
    refuse
    echo "reading the repositories afresh"
    if ! patiently dnf4 --refresh --downloadonly "$@"; then
        refuse
        echo "dnf cannot do this with the repositories of this host; if a version is gone from" \
            "the repository, gpufleet lock picks one that is there; an exclude in dnf.conf or in" \
            "a .repo file hides packages, too" >&2
        exit 1
    fi
fi
