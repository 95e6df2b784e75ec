# The app or a worker, for those who host it elsewhere than on a Space. PyTorch comes with CUDA; for
# its CPU build: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t qvla .
FROM python:3.11-slim

ARG TORCH_INDEX=https://pypi.org/simple
RUN apt-get update && \
    apt-get install -y --no-install-recommends libgomp1 && \
    rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt .
# psycopg is the driver of the compose file's Postgres.
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" torch==2.13.0 && \
    pip install --no-cache-dir -r requirements.txt "psycopg[binary]==3.3.9"

COPY app.py .
COPY qvla qvla
COPY assets assets
COPY checkpoints checkpoints

# What is made lies in the volume: jobs, records, and what was fetched from the hub.
RUN useradd --uid 1000 --create-home user && install -d -o user /data
USER user
ENV QVLA_HOME=/data QVLA_HOST=0.0.0.0 QVLA_PORT=7860 HF_HOME=/data/hub
VOLUME /data
EXPOSE 7860
CMD ["python", "app.py"]
