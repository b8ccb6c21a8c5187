"""Datasets on disk: Fashion-IQ's and CIRR's layouts, real or drawn (`garments`), and their pictures as tensors."""
