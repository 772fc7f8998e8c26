#!/bin/sh
# Two network namespaces joined by a veth pair whose ends a token bucket (TBF) limits: what `pi-bench run --networks
# lan-netns` runs its two processes in. The delay is not made here: many kernels lack netem, so pi-bench puts a proxy
# that only delays in front of the client.
#
# netns.sh up UP_BIT_S DOWN_BIT_S   make them (bit/s, client to server and server to client)
# netns.sh down                     remove them
#
# Needs root, iproute2, and a kernel with veth and TBF.
set -eu

server=pi-bench-server
client=pi-bench-client

down() {
    ip netns del $server 2>/dev/null || true
    ip netns del $client 2>/dev/null || true
}

# A bucket of 2 ms, and at least two segments of the largest size that the kernel hands over at once.
bucket() {
    burst=$(($1 / 8 / 500))
    [ "$burst" -ge 131072 ] || burst=131072
    echo "$burst"
}

case "${1:-}" in
up)
    [ $# -eq 3 ] || { echo "usage: $0 up UP_BIT_S DOWN_BIT_S" >&2; exit 2; }
    down
    trap 'down' EXIT
    ip netns add $server
    ip netns add $client
    ip link add pi-bench-s netns $server type veth peer name pi-bench-c netns $client
    ip -n $server addr add 10.77.0.1/24 dev pi-bench-s
    ip -n $client addr add 10.77.0.2/24 dev pi-bench-c
    for ns in $server $client; do
        ip -n $ns link set lo up
    done
    ip -n $server link set pi-bench-s up
    ip -n $client link set pi-bench-c up
    ip netns exec $client tc qdisc add dev pi-bench-c root tbf rate "$2bit" burst "$(bucket "$2")" latency 200ms
    ip netns exec $server tc qdisc add dev pi-bench-s root tbf rate "$3bit" burst "$(bucket "$3")" latency 200ms
    trap - EXIT
    ;;
down)
    down
    ;;
*)
    echo "usage: $0 up UP_BIT_S DOWN_BIT_S | down" >&2
    exit 2
    ;;
esac
