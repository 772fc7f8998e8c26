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

# A bucket of 1 ms, and at least two segments of the largest size that the kernel hands over at once. What fits the bucket
# passes a line that was quiet at once, so it must be small: 128 kB would be 0.2 s of a line of 5 Mbit/s.
bucket() {
    burst=$(($1 / 8 / 1000))
    [ "$burst" -ge $((2 * segment)) ] || burst=$((2 * segment))
    echo "$burst"
}

# Two frames at a time: 64 kB at a time, the default, would need a large bucket.
segment=3028

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
    ip -n $server link set pi-bench-s gso_max_segs 2
    ip -n $client link set pi-bench-c gso_max_segs 2
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
