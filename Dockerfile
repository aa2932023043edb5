# A machine that tells stories:
#   docker build -t fabella .                            small, CPU only
#   docker build -t fabella:cuda --build-arg COMPUTE=cuda .      for NVIDIA GPUs (run with --gpus all)
#   docker run --rm -it -v "$PWD/data:/story/data" -v "$PWD/runs:/story/runs" fabella
FROM python:3.12.11-slim-bookworm

ARG COMPUTE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /build

# 1. torch, the largest layer: renewed only when a pin changes. The usual Linux build brings CUDA with it.
COPY constraints.txt ./
RUN case "$COMPUTE" in \
      cpu)  pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" ;; \
      cuda) pip install --no-cache-dir -c constraints.txt torch ;; \
      *)    echo "COMPUTE is '$COMPUTE'; it is cpu or cuda" >&2; exit 2 ;; \
    esac

# 2. everything else that is pinned, without Fabella's own files, so that editing these reuses the layer
COPY pyproject.toml ./
RUN mkdir -p src/fabella && touch README.md LICENSE src/fabella/__init__.py \
    && pip install --no-cache-dir -c constraints.txt .

# 3. Fabella
COPY README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps --force-reinstall . \
    && useradd --create-home --uid 1000 teller \
    && mkdir -p /story/data /story/runs \
    && chown -R teller:teller /story

USER teller
WORKDIR /story
VOLUME ["/story/data", "/story/runs"]
ENTRYPOINT ["fabella"]
CMD ["quickstart"]
