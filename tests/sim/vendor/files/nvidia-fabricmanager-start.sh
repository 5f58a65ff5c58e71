#!/bin/sh
# Starts the simulated fabric manager; afterwards (--mode stopped, also after a crash) no GPU keeps a
# completed fabric.
set -e
case "$1 $2" in
"--mode start")
	[ -r "$4" ] || { echo "Fabric Manager config file $4 doesn't exist" >&2; exit 1; }
	exec /usr/bin/nv-fabricmanager -c "$4" ;;
"--mode stopped")
	for state in "${SIM_ROOT:-}"/run/sim/nvml/*/fabric_state; do
		[ ! -e "$state" ] || echo 0 >"$state"
	done ;;
*) echo "usage: $0 --mode start --fm-config-file FILE | --mode stopped" >&2; exit 2 ;;
esac
