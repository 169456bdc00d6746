"""An operator as people write them with kopf, on built-in kinds: each ConfigMap labelled `mirror=yes` has a Secret of the
same name that holds the same, is owned by it, and goes with it. `test_operators` runs it by `kopf run`."""

import base64

import kopf
import kubernetes


@kopf.on.startup()
def connect(settings, **_):
    settings.persistence.finalizer = "mirror.example/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="mirror.example")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="mirror.example")
    kubernetes.config.load_kube_config()


@kopf.on.create("configmaps", labels={"mirror": "yes"})
@kopf.on.update("configmaps", labels={"mirror": "yes"}, field="data")
@kopf.on.resume("configmaps", labels={"mirror": "yes"})
def mirrored(body, name, namespace, retry, patch, **_):
    if body["data"].get("fail") == "once" and retry == 0:
        kopf.event(body, type="Warning", reason="NotYet", message="not yet")
        raise kopf.TemporaryError("not yet", delay=0.2)
    api = kubernetes.client.CoreV1Api()
    data = {key: base64.b64encode(value.encode()).decode() for key, value in body["data"].items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}
    kopf.adopt(secret, owner=body)
    try:
        api.create_namespaced_secret(namespace, secret)
    except kubernetes.client.ApiException as error:
        if error.status != 409:
            raise
        api.patch_namespaced_secret(name, namespace, secret)
    patch.metadata.labels["mirrored"] = "yes"


@kopf.on.delete("configmaps", labels={"mirror": "yes"})
def gone(name, namespace, **_):
    kubernetes.client.CoreV1Api().delete_namespaced_secret(name, namespace)


@kopf.daemon("configmaps", labels={"mirror": "yes", "count": "yes"}, cancellation_timeout=1.0)
def counting(stopped, patch, **_):
    while not stopped.wait(0.1):
        patch.metadata.annotations["mirror.example/counted"] = "yes"
        return


@kopf.on.event("pods")
def seen(event, name, namespace, labels, **_):
    if event["type"] in (None, "ADDED") and labels.get("greet") == "yes":
        body = {"metadata": {"annotations": {"mirror.example/greeted": "hello"}}}
        kubernetes.client.CoreV1Api().patch_namespaced_pod(name, namespace, body)
