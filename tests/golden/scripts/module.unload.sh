    if [ -n "$(loaded)" ]; then
        for unit in $services; do
            case " $stopped " in *" $unit "*) continue ;; esac
            if systemctl is-active -q "$unit"; then stopped="$stopped $unit"; fi
        done
        [ -z "$stopped" ] || record owed_start "${stopped# }"
        for unit in $stopped; do systemctl stop "$unit"; done
        for module in $modules nvidia; do
            if [ -d "/sys/module/$module" ] && ! rmmod "$module"; then
                later "module $module is in use and stays loaded"
            fi
        done
    fi
    if [ -d /sys/module/nouveau ] && ! rmmod nouveau; then
        later "nouveau holds the GPUs and cannot be unloaded"
    fi
    if ! modprobe nvidia; then
        echo "the kernel refuses the module; its own words:" >&2
        { dmesg 2>/dev/null | grep -i nvrm || :; } | tail -n 5 >&2
        finish
        exit 1
    fi
    modprobe nvidia-uvm || echo "nvidia-uvm is loaded when CUDA first needs it"
fi
finish
if ! as_wanted; then
    echo "loaded is '$(loaded)', wanted $version ($flavour) ${options:+with $options}" >&2
    [ -z "$options" ] || grep -rs NVreg_ /etc/modprobe.d /usr/lib/modprobe.d >&2 || :
    exit 1
fi
