loaded() { cat /sys/module/nvidia/version 2>/dev/null || :; }
as_wanted() {
    [ "$(loaded)" = "$version" ] || return 1
    for option in $options; do
        name=${option%%=*}
        shown=$(sed -n "s/^$name: //p" /proc/driver/nvidia/params | tr -d '"')
        [ "$shown" = "${option#*=}" ] || return 1
    done
    case "$(cat /proc/driver/nvidia/version)" in
        *'Open Kernel Module'*) [ "$flavour" = open ] ;;
        *) [ "$flavour" = closed ] ;;
    esac
}
later() {
    echo "$1; the module takes effect at the next boot"
    finish
    exit 0
}
finish() {
    for unit in $stopped; do
        systemctl start "$unit" || echo "$unit does not start yet"
    done
    record owed_start ''
}
stopped=
for unit in $(recorded owed_start); do
    case " $services " in *" $unit "*) stopped="$stopped $unit" ;; esac
done
if ! as_wanted; then
