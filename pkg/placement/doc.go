// Package placement sends claims that are made from a snapshot or a volume to
// the node which has it.
//
// Where each node has volumes of its own, only the node that has the source of
// a claim can make its volume. The scheduler does not know that: it chooses a
// node for the claim's pod as it pleases, the driver there refuses, and the
// scheduler, asked again, chooses the same node, for ever. But a claim that
// bears the annotation volume.kubernetes.io/selected-node is provisioned on that
// node, and the pod follows its volume. So on each node a placer watches the
// claims, and sets that annotation on those whose source is on its node. It does
// not wait for a pod, for the claim has no choice.
//
// # Invariants
//
//   - A placer writes nothing but that annotation, and only where there is none:
//     what the scheduler has chosen stays, until the provisioner has given it
//     up.
//   - It touches no claim whose StorageClass is another driver's.
//   - The node is told by the source's ID (see package backend), so that the
//     placers of different nodes need not know of each other. What was made
//     when the node had another ID, no placer knows: the scheduler decides.
package placement
