-- One database for each of the three; the server runs this when its folder is empty.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
CREATE DATABASE predictions;
