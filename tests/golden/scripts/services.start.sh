systemctl daemon-reload
case "$(systemctl is-enabled "$unit" 2>/dev/null || :)" in
    enabled | enabled-runtime | static | indirect | alias | generated) ;;
    *) systemctl enable "$unit" ;;
esac
loaded=$(cat /sys/module/nvidia/version 2>/dev/null || :)
if [ "$loaded" != "$version" ]; then
    echo "driver ${loaded:-none} is loaded, not $version: $unit starts at the next boot"
    exit 0
fi
systemctl is-active -q "$unit" && exit 0
systemctl reset-failed "$unit" 2>/dev/null || :
if ! systemctl start "$unit"; then
    systemctl status --no-pager --lines 20 "$unit" >&2 || :
    exit 1
fi
