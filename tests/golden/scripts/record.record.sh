recorded() {
    sed -n "s/^$1=//p" "$record_state" 2>/dev/null || :
}
record() {
    mkdir -p -m 755 "${record_state%/*}"
    record_new=$(mktemp "${record_state%/*}/.state.XXXXXX")
    { grep -v "^$1=" "$record_state" 2>/dev/null || :; } >"$record_new"
    [ -z "$2" ] || printf '%s=%s\n' "$1" "$2" >>"$record_new"
    LC_ALL=C sort -o "$record_new" "$record_new"
    chmod 644 "$record_new"
    sync "$record_new"
    mv -fT "$record_new" "$record_state"
}
