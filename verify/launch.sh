# Receives the bundle on a host, or checks the one that is there and runs it. POSIX sh with
# coreutils, findutils, tar and gzip. verify/launch.py puts assignments in front:
#   action      run; push; check (says which Python it would take, and runs nothing); keep (the
#               figures of the run that the request names); start, poll, stop (level deep, apart
#               from whoever asks: verify/detached.py); gather (verify/payload/evidence.py)
#   id          the bundle's hash, and the name of its folder
#   prefix      where bundles live, below bundle/
#   privileged  yes: a user who did not become root keeps them in a cache of his own instead
#   nonce       a word that marks our lines
#   limit       seconds that the checks may take
#   request     JSON for the checks
#   archive     file with the archive as base64; empty: standard input
# What is not the checks' own answer is one line: GPUFLEET-LAUNCH <nonce> <word> <uid> <text>.
# Ends with 0 always: whoever ran this would otherwise run it once more, as another user.

say() {
    printf 'GPUFLEET-LAUNCH %s %s %s %s\n' "$nonce" "$1" "$uid" "$2"
}

place() {
    if [ "$uid" = 0 ] || [ "$privileged" != yes ]; then
        bundles=$prefix/bundle
        return 0
    fi
    bundles=${XDG_CACHE_HOME:-${HOME:-}/.cache}/gpufleet/bundle
    case ${XDG_CACHE_HOME:-${HOME:-}} in
        /*) return 0 ;;
        *) return 1 ;;
    esac
}

# Who else could change what lies in a bundle's folder; nothing when nobody. Root looks at every
# folder on the way: whoever may write to one could put another bundle in its place.
writers() {
    folder=$1
    while [ -n "$folder" ]; do
        if ! facts=$(stat -c '%u %a' "$folder"); then
            echo "$folder cannot be looked at"
            return
        fi
        owner=${facts%% *} mode=0${facts#* }
        case $folder in
            "$bundles" | "$bundles"/*) others=$((mode & 022)) ;;
            *)
                others=$((mode & 02))  # groups such as staff are the site's own choice
                if [ "$((mode & 01000))" != 0 ]; then others=0; fi  # as /tmp
                ;;
        esac
        if [ "$owner" != 0 ] && [ "$owner" != "$uid" ]; then
            echo "$folder belongs to user $owner"
            return
        elif [ "$others" != 0 ]; then
            echo "$folder can be written by others (mode ${mode#0})"
            return
        elif [ "$uid" != 0 ] && [ "$folder" = "$bundles" ]; then
            return
        fi
        folder=${folder%/*}
    done
}

# What in a folder is not as the manifest has it; nothing when all is.
differs() (
    cd "$1" || exit 0
    if ! [ -f MANIFEST ]; then
        echo 'MANIFEST is missing'
        exit 0
    fi
    found=$(sha256sum <MANIFEST)
    if [ "${found%% *}" != "$id" ]; then
        echo 'MANIFEST is not that of this bundle'
        exit 0
    fi
    {
        find . ! -type d ! -type f | sed 's,^\./\(.*\),\1 is no plain file,'
        sha256sum -c MANIFEST 2>/dev/null | sed -n 's/: FAILED$/ has other content/p'
        {
            sed 's/^[0-9a-f]*  //' MANIFEST
            find . -type f ! -path ./MANIFEST | sed 's,^\./,,'
        } | sort | uniq -u | while IFS= read -r path; do
            if [ -e "$path" ]; then
                echo "$path does not belong there"
            else
                echo "$path is missing"
            fi
        done
    } | head -n 4
)

whole() {
    if ! [ -d "$bundles/$id" ]; then
        say missing "$bundles/$id"
        return 1
    fi
    bundles=$(cd "$bundles" && pwd -P)
    wrong=$(writers "$bundles/$id")
    if [ -n "$wrong" ]; then
        say unsafe "$wrong"
        return 1
    fi
    # Open for as long as we live, and locked where flock is: nobody takes it away meanwhile.
    exec 9<"$bundles/$id"
    flock -s -n 9 2>/dev/null || :
    wrong=$(differs "$bundles/$id")
    if [ -n "$wrong" ]; then
        say damaged "$bundles/$id: $(printf '%s' "$wrong" | tr '\n' ';' | sed 's/;/; /g')"
        return 1
    fi
}

push() {
    if ! mkdir -p "$bundles" || ! new=$(mktemp -d "$bundles/.new.XXXXXX"); then
        say cannot "$bundles cannot be written"
        return
    fi
    trap 'rm -rf "$new"' EXIT
    trap 'exit 0' HUP INT TERM
    if ! base64 -d <"${archive:-/dev/stdin}" | tar -xzf - -C "$new"; then
        say cannot "the bundle could not be unpacked in $bundles"
        return
    fi
    chmod 755 "$new"
    wrong=$(differs "$new" | head -n 1)
    if [ -n "$wrong" ]; then
        say cannot "the bundle did not arrive whole in $bundles: $wrong"
        return
    fi
    if [ -e "$bundles/$id" ] || [ -L "$bundles/$id" ]; then
        rm -rf "$bundles/.replaced"
        mv -T "$bundles/$id" "$bundles/.replaced"
    fi
    if ! mv -T "$new" "$bundles/$id"; then
        say cannot "$bundles cannot be written"
        return
    fi
    tidy
    say pushed "$bundles/$id"
}

# Older bundles go, but for the newest of them and those that a run holds open.
tidy() {
    kept=
    ls -t "$bundles" | while IFS= read -r old; do
        if [ "$old" = "$id" ]; then
            continue
        elif [ -z "$kept" ]; then
            kept=$old
        elif flock -n "$bundles/$old" true; then
            rm -rf "${bundles:?}/$old"
        fi
    done
    find "$bundles" -mindepth 1 -maxdepth 1 -name '.new.*' -mmin +60 -exec rm -rf {} +
}

# The environment's Python when it starts and is new enough, else one of the system's.
choose() {
    for python in "$prefix/env/bin/python" python3 python3.14 python3.13 python3.12 python3.11 \
        python3.10; do
        if timeout 5 "$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
            </dev/null >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

check() {
    whole || return 1
    if ! choose; then
        found=$(python3 -V 2>&1 | head -n 1)
        say no-python "neither at $prefix/env/bin/python nor as python3 (${found:-no answer})"
        return 1
    fi
}

run() {
    check || return 0
    cd "$bundles/$id" || return
    # No bytecode is kept: what runs is what was checked, and compiling it costs 0.2 s.
    export PYTHONDONTWRITEBYTECODE=1
    printf '%s\n' "$request" |
        timeout -k 3 "$limit" "$python" -I -S -B verify/attended.py
    code=$?
    if [ "$code" != 0 ]; then say ended "$code"; fi
}

keep() {
    check || return 0
    cd "$bundles/$id" || return
    printf '%s\n' "$request" | timeout -k 3 "$limit" "$python" -I -S -B verify/past.py
    code=$?
    if [ "$code" = 0 ]; then say kept ''; else say ended "$code"; fi
}

program() {
    check || return 0
    cd "$bundles/$id" || return
    export PYTHONDONTWRITEBYTECODE=1
    printf '%s\n' "$request" |
        timeout -k 3 "$limit" "$python" -I -S -B "$@"
    code=$?
    if [ "$code" != 0 ]; then say ended "$code"; fi
}

main() {
    uid=$(id -u)
    if ! place; then
        say cannot "there is no home directory for a bundle"
        return
    fi
    case $action in
        run) run ;;
        push) push ;;
        start | poll | stop) program verify/detached.py "$action" ;;
        gather) program verify/payload/evidence.py ;;
        keep) keep ;;
        check) if check; then say ready "$python $bundles/$id"; fi ;;
    esac
}

main
exit 0
