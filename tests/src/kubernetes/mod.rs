//! A real Kubernetes control plane, and nodes that run pods as processes.
//!
//! | module | what it is |
//! |---|---|
//! | [`plane`] | etcd, API server, controller manager and scheduler, as processes |
//! | [`network`] | a bridge, and a network namespace a pod |
//! | [`kubelet`] | nodes: they take pods, run them, and say how they are |
//! | [`logs`] | what nodes serve to the API server |
//! | [`pod`] | one pod: its volumes, its root, its process |
//! | [`status`] | what a node says of a pod |
//! | [`kueue`] | the real Kueue, which lets jobs in by quota |
//!
//! There is no container runtime: a pod's command runs under the programs of this repository, in a mount
//! namespace with the pod's volumes, read-only where the pod says so, as the pod's user, in a network
//! namespace with the pod's address. Names of Services are kept in each pod's `/etc/hosts`. Images are names
//! alone. Everything else is Kubernetes' own.

pub mod kubelet;
pub mod kueue;
pub mod logs;
pub mod network;
pub mod plane;
pub mod pod;
pub mod status;
