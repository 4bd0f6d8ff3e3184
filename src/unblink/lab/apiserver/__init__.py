"""An embedded kube-apiserver for the lab: a process per instance, over one store process in the place of etcd.

It answers as the recorded kube-apiserver 1.36 does (tests/lab/apiserver/test_transcripts.py, with a table of what is
different there). Beyond what was recorded, on purpose:

- Resources: configmaps, events, leases, namespaces, pods, secrets, and custom resources from the configuration.
- Nobody controls: no kubelet, garbage collection, finalizers or grace periods. What is deleted is gone at once, a
  namespace with all that is in it; a pod stays Pending until somebody writes its status.
- No schemas: fields are neither validated nor defaulted, and ``kubectl explain`` knows kinds but no fields. In
  managedFields and server-side apply every list is atomic.
- Protobuf: ConfigMap, Lease, Namespace, Secret and Status, whose messages are small; other types are JSON or YAML.
- Authorisation: who is authenticated may do everything.
- /livez does not ask for the store, only /readyz does: an instance that lost its store is to stay alive in the lab.
- One watch cache for all resources, so that every resource's revision follows the store at once, where kube-apiserver
  asks for progress notifications.
- The identity lease is renewed six times per bookmark period: every 10 s of 60 s, quicker where that is set lower,
  at most four times a second.
- Without a connection to the store a request fails at once, not only after its time limit.
"""
